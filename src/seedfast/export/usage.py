"""The lines of a model card that load, serve and convert a model: only those that are true of this model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_VLLM = {
    "gpt2", "gptj", "gpt_neox", "bloom", "opt", "falcon", "mpt", "llama", "mistral", "mixtral", "qwen2", "qwen3",
    "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo3", "cohere", "cohere2", "granite", "glm4",
}  # fmt: skip
_VLLM_LORA = _VLLM - {"gpt2", "gptj", "gpt_neox", "bloom", "falcon", "mpt"}
_VLLM_HEAD_SIZES = (32, 64, 80, 96, 112, 120, 128, 192, 256)
"""Model types and head sizes of vLLM (docs.vllm.ai, "Supported Models"; its attention backends)."""
_LLAMA_CPP = {
    "gpt2", "gpt_neox", "bloom", "falcon", "mpt", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma",
    "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "cohere", "granite", "starcoder2", "stablelm", "smollm3",
}  # fmt: skip
"""Model types of llama.cpp's convert_hf_to_gguf.py, which also has to know the tokenizer: only published ones."""


@dataclass(frozen=True)
class Usage:
    """What decides how a causal language model can be used.

    shape: its transformers configuration. base: the model that an adapter belongs to. rank: of a LoRA adapter, else
    None. has_chat: whether its tokenizer has a chat template. has_published_tokenizer: whether its tokenizer is that of
    a published model. prompt: the text of the examples.
    """

    shape: Any
    has_chat: bool
    has_published_tokenizer: bool
    prompt: str
    base: str | None = None
    rank: int | None = None

    @property
    def head_size(self) -> int:
        """Channels of an attention head; 0 if the configuration does not tell."""
        size = getattr(self.shape, "head_dim", None)
        heads = getattr(self.shape, "num_attention_heads", None)
        return size or (self.shape.hidden_size // heads if heads else 0)

    @property
    def runs_in_vllm(self) -> bool:
        """Whether vLLM has this architecture, and for an adapter can add it."""
        if self.head_size not in _VLLM_HEAD_SIZES:
            return False
        kind = self.shape.model_type
        return kind in _VLLM if self.base is None else kind in _VLLM_LORA and self.rank is not None

    @property
    def converts_to_gguf(self) -> bool:
        """Whether llama.cpp converts it."""
        return self.base is None and self.shape.model_type in _LLAMA_CPP and self.has_published_tokenizer


def sections(usage: Usage) -> Iterator[str]:
    """The lines of all tools, each with its heading."""
    yield from _transformers(usage)
    if usage.base is None:
        yield from _served(usage)
    if usage.runs_in_vllm:
        yield from ("With vLLM:", "", "```bash", _vllm(usage), "```", "")
    if usage.converts_to_gguf:
        yield from ("With llama.cpp (in its folder):", "", "```bash")
        yield "python convert_hf_to_gguf.py PATH --outfile model.gguf"
        yield f"llama-cli -m model.gguf -p {usage.prompt!r}"
        yield from ("```", "")


def _transformers(usage: Usage) -> Iterator[str]:
    kind, library = ("AutoModelForCausalLM", "transformers") if usage.base is None else (
        "AutoPeftModelForCausalLM", "peft"
    )  # fmt: skip
    yield from (f"With {library}:", "", "```python")
    yield "from transformers import AutoTokenizer"
    yield f"from {library} import {kind}"
    yield from ("", 'tokenizer = AutoTokenizer.from_pretrained("PATH")', f'model = {kind}.from_pretrained("PATH")')
    yield f'inputs = tokenizer({usage.prompt!r}, return_tensors="pt", return_token_type_ids=False)'
    yield "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))"
    yield from ("```", "")


def _served(usage: Usage) -> Iterator[str]:
    """`transformers serve`, and a request by curl: to the chat where there is a template."""
    path, body = (
        ("chat/completions", f'"messages": [{{"role": "user", "content": "{usage.prompt}"}}]')
        if usage.has_chat
        else ("completions", f'"prompt": "{usage.prompt}"')
    )
    yield from ("As a server, with `pip install 'transformers[serving]'`:", "", "```bash", "transformers serve PATH &")
    yield f"curl http://localhost:8000/v1/{path} -H 'Content-Type: application/json' \\"
    yield f'  -d \'{{"model": "PATH", {body}, "max_tokens": 20}}\''
    yield from ("```", "")


def _vllm(usage: Usage) -> str:
    if usage.base is None:
        return "vllm serve PATH"
    assert usage.rank is not None
    rank = next(size for size in (8, 16, 32, 64, 128, 256, 320, 512, usage.rank) if size >= usage.rank)
    return f"vllm serve {usage.base} --enable-lora --max-lora-rank {rank} --lora-modules tuned=PATH"
