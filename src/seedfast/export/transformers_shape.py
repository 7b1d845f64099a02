"""seedfast's transformer as a class of transformers that computes the same logits, where there is one.

| network of seedfast | class |
|---|---|
| RMSNorm, rotary positions, swiglu, QK-norm | Qwen3 |
| the same without QK-norm, with or without biases | Llama |
| LayerNorm, learned positions, an MLP without a gate | GPT-2 |
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seedfast import huggingface
from seedfast.models import hf_causal_lm
from seedfast.models.import_gpt2 import tensor_names, transposed
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork

_GPT2_MLP = {"gelu": "gelu_new", "gelu-erf": "gelu", "relu2": "relu2"}


def as_transformers(network: TransformerNetwork, *, end_of_text: int) -> Any | None:
    """A causal language model of transformers with the network's weights; None if no class computes the same."""
    config = network.config
    if config.ngrams:
        return None
    if config.norm == "rms" and config.positions == "rope" and config.mlp == "swiglu":
        if config.qk_norm and config.bias:
            return None
        values, state = _llama_values(network), dict(_llama_state(network))
    elif config.norm == "layer" and config.positions == "learned" and config.mlp in _GPT2_MLP and not config.qk_norm:
        values, state = _gpt2_values(network), _gpt2_state(network)
    else:
        return None
    shape = huggingface.transformers().AutoConfig.for_model(
        values.pop("model_type"),
        **values,
        vocab_size=network.tokens.num_embeddings,
        tie_word_embeddings=config.tied,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=None,
    )
    shape._attn_implementation = "sdpa"
    model = hf_causal_lm.build(shape, initialise=False)
    missing = model.state_dict().keys() - state.keys()
    model.load_state_dict(state | {name: torch.zeros_like(model.state_dict()[name]) for name in missing})
    return model.eval()


def _llama_values(network: TransformerNetwork) -> dict[str, Any]:
    config: Transformer = network.config
    return {
        "model_type": "qwen3" if config.qk_norm else "llama",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.width // config.heads,
        "max_position_embeddings": network.context,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "attention_bias": config.bias,
        **({} if config.qk_norm else {"mlp_bias": config.bias}),
    }


def _llama_state(network: TransformerNetwork) -> Iterator[tuple[str, Tensor]]:
    """The weights under Llama's names. Norms here have no gain, so theirs is 1."""
    config, own = network.config, network.state_dict()
    ones = torch.ones(config.width)
    size = config.width // config.heads
    yield "model.embed_tokens.weight", own["tokens.weight"]
    yield "model.norm.weight", ones
    yield "lm_head.weight", own["head.weight"]
    for layer in range(config.layers):
        here, there = f"blocks.{layer}", f"model.layers.{layer}"
        yield f"{there}.input_layernorm.weight", ones
        yield f"{there}.post_attention_layernorm.weight", ones
        for letter in "qkv":
            weight = own[f"{here}.attention.qkv.{letter}"]
            yield f"{there}.self_attn.{letter}_proj.weight", weight if letter == "v" else _halves(weight, size)
            if config.qk_norm and letter != "v":
                yield f"{there}.self_attn.{letter}_norm.weight", torch.ones(size)
        if config.bias:
            for letter, bias in zip("qkv", own[f"{here}.attention.qkv.bias"].chunk(3), strict=True):
                yield f"{there}.self_attn.{letter}_proj.bias", bias if letter == "v" else _halves(bias, size)
        linear = {"attention.out": "self_attn.o_proj"} | {f"mlp.{part}": f"mlp.{part}_proj" for part in _MLP_PARTS}
        for name, other in linear.items():
            for kind in ("weight", "bias") if config.bias else ("weight",):
                yield f"{there}.{other}.{kind}", own[f"{here}.{name}.{kind}"]


_MLP_PARTS = ("gate", "up", "down")


def _halves(rows: Tensor, size: int) -> Tensor:
    """The rows of each head with rotated pairs (2i, 2i+1) moved to (i, i + size/2), where transformers rotates them."""
    pairs = rows.reshape(-1, size // 2, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).flatten(0, 2)


def _gpt2_values(network: TransformerNetwork) -> dict[str, Any]:
    config = network.config
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    return {
        "model_type": "gpt2",
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": network.context,
        "activation_function": _GPT2_MLP[config.mlp],
        **rates,
    }


def _gpt2_state(network: TransformerNetwork) -> dict[str, Tensor]:
    """The weights under GPT-2's names, matrices as [in, out]; a network without biases has none of theirs."""
    own = network.state_dict()
    state: dict[str, Tensor] = {}
    for theirs, name in tensor_names(network):
        is_qkv = name.endswith("qkv.weight")
        state[theirs] = torch.cat([own[name.replace("weight", part)] for part in "qkv"]) if is_qkv else own[name]
    return transposed(state)
