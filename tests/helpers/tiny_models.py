"""Tiny language models of transformers with random weights, saved as a user's would be."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma3_text")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def shape(kind: str, vocabulary: int, **changes: Any) -> Any:
    """The configuration of a tiny model with two layers."""
    if kind == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
        rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2Config(vocab_size=vocabulary, **{**sizes, **rates, **changes})
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    if kind == "gemma3_text":  # one layer attends to the last four tokens, one to all
        sizes |= {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    return transformers.AutoConfig.for_model(kind, vocab_size=vocabulary, **{**sizes, **changes})


def model(kind: str, vocabulary: int, **changes: Any) -> Any:
    """A model with random weights, large enough that every part changes the output."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(shape(kind, vocabulary, **changes))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def tokenizer(text: str, size: int = 300) -> Any:
    """A byte-level tokenizer with a chat template, like that of an instruction-tuned model."""
    core = tokenizers.Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=["<|im_start|>"]
    )
    made.chat_template = CHAT
    return made


def folder(path: Path, kind: str = "gpt2", text: str = "the cat sees the dog. ", **changes: Any) -> Path:
    """The folder of a model with its tokenizer, as save_pretrained writes it."""
    words = tokenizer(text)
    model(kind, len(words), **changes).save_pretrained(path)
    words.save_pretrained(path)
    return path
