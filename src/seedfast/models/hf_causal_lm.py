"""Causal language models of transformers by folder or hub name: their configurations and weights."""

import copy
import json
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.models.masked_checkpoints import masked_model

_CONTEXT_NAMES = (
    "max_position_embeddings",  # transformers' attribute map gives it to GPT-2 (n_positions) and its relatives
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "context_length",
)


def longest_context(architecture: str) -> int | None:
    """The largest number of positions of an architecture; None if it has no limit of its own."""
    shape = configuration(architecture, attention="eager")
    values = (getattr(shape, name, None) for name in _CONTEXT_NAMES)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def attention(architecture: str) -> Literal["sdpa", "eager"]:
    """The attention implementation that transformers has for an architecture: sdpa if it can."""
    shape = configuration(architecture, attention="eager")
    kind = huggingface.transformers().MODEL_FOR_CAUSAL_LM_MAPPING[type(shape)]
    return "sdpa" if kind._supports_sdpa else "eager"


def vocabulary(architecture: str) -> int:
    """The number of rows of an architecture's embedding. The JSON leaves out what is the type's default."""
    rows: int = configuration(architecture, attention="eager").vocab_size
    return rows


def refuse_masked(name: str) -> None:
    """Raise UserError if a local folder holds a model that predicts masked tokens."""
    path = Path(name).expanduser() / "config.json"
    if path.is_file():
        _refuse_masked(name, huggingface.read_json(path))


def _refuse_masked(name: str, config: Mapping[str, Any]) -> None:
    if why := masked_model(config):
        raise UserError(
            f"{name} holds a model that predicts masked tokens from both sides ({why}), not a causal language model; "
            "seedfast import makes a masked run of one that has GPT-2's architecture."
        )


def architecture(name: str, *, masked: bool = False) -> str:
    """The transformers configuration of a causal language model, as JSON. Raises UserError for any other model.

    masked: whether a model that was continued as masked diffusion is expected.
    """
    if not masked:
        refuse_masked(name)
    transformers = huggingface.transformers()
    # Without a value, transformers asks on the terminal whether a model's own code may run.
    read = partial(transformers.AutoConfig.from_pretrained, trust_remote_code=False)
    shape = huggingface.fetch("The model", name, read)
    if not masked:
        _refuse_masked(name, shape.to_diff_dict())  # a name on the hub has no file to look into before
    known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(shape) not in known:
        raise UserError(f"{name} is of the type {shape.model_type}, which is not a causal language model.")
    values = {k: v for k, v in shape.to_diff_dict().items() if k not in ("transformers_version", "dtype")}
    return json.dumps({**values, "model_type": shape.model_type}, sort_keys=True)


def configuration(architecture: str, *, attention: str) -> Any:
    """The configuration that `architecture` wrote. Raises UserError if it cannot be read."""
    transformers = huggingface.transformers()
    try:
        values = dict(json.loads(architecture))
        with huggingface.quiet():
            shape = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model.architecture is not a transformers configuration: {huggingface.first_line(error)}"
        ) from error
    if type(shape) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"model.architecture is of the type {shape.model_type}, which is not a causal language model.")
    shape._attn_implementation = attention
    return shape


def build(shape: Any, *, initialise: bool, dtype: torch.dtype = torch.float32) -> Any:
    """A model of this configuration. Without `initialise`, weights are left uninitialised, to save time."""
    transformers = huggingface.transformers()
    from transformers.initialization import no_init_weights

    with huggingface.quiet(), nullcontext() if initialise else no_init_weights():
        try:
            model = transformers.AutoModelForCausalLM.from_config(
                shape, dtype=dtype, attn_implementation=shape._attn_implementation
            )
            model.tie_weights()  # a part of the initialisation that may be skipped
            return model
        except (ValueError, ImportError) as error:
            if "attention implementation" in str(error):
                raise UserError(
                    f"transformers has no {shape._attn_implementation} attention for {shape.model_type}; "
                    "set model.attention to eager."
                ) from error
            raise UserError(f"{shape.model_type} cannot be built: {huggingface.first_line(error)}") from error


@torch.no_grad()
def weights(name: str, shape: Any, *, dtype: torch.dtype = torch.float32) -> Any:
    """The pretrained model with this configuration.

    The vocabulary may be larger than the pretrained one: new rows get the mean of the others.
    Raises UserError if the model cannot be loaded or lacks weights.
    """
    transformers = huggingface.transformers()
    rows = shape.vocab_size
    own = vocabulary(architecture(name, masked=True))
    model, found = huggingface.fetch(
        "The model",
        name,
        lambda source, **where: transformers.AutoModelForCausalLM.from_pretrained(
            source,
            config=_with_vocabulary(shape, own),
            dtype=dtype,
            attn_implementation=shape._attn_implementation,
            output_loading_info=True,
            **where,
        ),
    )
    if found["missing_keys"]:
        raise UserError(
            f"{name} lacks weights that a language model needs: {', '.join(sorted(found['missing_keys'])[:3])}."
        )
    if rows > own:
        model.resize_token_embeddings(rows, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[own:] = layer.weight[:own].mean(dim=0)
    return model


def _with_vocabulary(shape: Any, rows: int) -> Any:
    changed = copy.deepcopy(shape)
    changed.vocab_size = rows
    return changed


def cache(shape: Any) -> Any:
    """An empty key-value cache for a model of this configuration."""
    return huggingface.transformers().DynamicCache(config=shape)
