"""Checkpoints of models that predict masked tokens: how they are recognised, and the ids of their special symbols.

Their weights have the names and shapes of causal language models, so only the configuration tells them apart.
"""

from collections.abc import Mapping
from typing import Any

from seedfast.errors import UserError

_DIFFUSION = ("diffusion", "mdlm", "llada", "dream", "sdar")
"""Parts of the names of masked diffusion models."""
_ALSO_CAUSAL = ("xlm", "flaubert")
"""Types whose configuration has a mask_token_id although they may be causal."""
_KEYS = {
    "mask": ("mask_token_id",),
    "wrong": ("wrong_token_id", "replace_token_id"),
    "insert": ("insert_token_id",),
    "delete": ("delete_token_id",),
}
MASKED_KEYS = ("model_type", "mask_logit_bias", *(key for keys in _KEYS.values() for key in keys))
"""The keys of a configuration that tell a masked model."""
_LAYOUTS: dict[int, tuple[str, ...]] = {
    1: ("mask",),
    2: ("mask", "wrong"),
    4: ("delete", "insert", "mask", "wrong"),
}
"""The special symbols behind the words, by their number, as the nanoGPT forks for masked diffusion order them."""


def masked_model(config: Mapping[str, Any]) -> str | None:
    """How a configuration shows that its model predicts masked tokens, in words; None for any other model.

    config: of transformers (config.json), or nanoGPT's model_args.
    """
    kind = str(config.get("model_type", ""))
    if any(name in kind.lower() for name in _DIFFUSION):
        return f"model_type {kind}"
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if "MaskedLM" in str(name) or any(part in str(name).lower() for part in _DIFFUSION):
            return f"architecture {name}"
    if config.get("is_causal") is False:
        return "is_causal false"
    if config.get("mask_token_id") is not None and kind not in _ALSO_CAUSAL:
        return f"mask_token_id {config['mask_token_id']}"
    return None


def special_symbols(config: Mapping[str, Any], *, size: int, words: int, exact: bool) -> dict[str, int]:
    """The ids of a masked model's special symbols: "mask", and "wrong", "insert", "delete" where it has them.

    size: number of rows of its embedding. words: number of tokens of the tokenizer. exact: whether the special symbols
    begin right behind the words (otherwise there may be padding between them). Ids that the configuration does not
    name follow from the number of symbols. Raises UserError if the two do not fit.
    """
    named = {name: config[key] for name, keys in _KEYS.items() for key in keys if isinstance(config.get(key), int)}
    extra = size - words
    layout = _LAYOUTS.get(extra, ())
    found = {name: words + index for index, name in enumerate(layout)} | named
    if named.get("mask") == size - 2:
        found.setdefault("wrong", size - 1)
    ids = sorted(found.values())
    fits = "mask" in found and len(set(ids)) == len(ids) and words <= ids[0] and ids[-1] < size
    if not fits or (exact and ids[0] != words):
        first = min(named.values(), default=None)
        known = f"its special symbols begin at {first}" if first is not None else f"it has {size} symbols"
        raise UserError(
            f"This masked diffusion model was trained on other tokens: {known}, and the tokenizer of the data has "
            f"{words} tokens; name the text or the tokenizer that it was trained with."
        )
    return found
