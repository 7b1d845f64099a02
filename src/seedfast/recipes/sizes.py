"""The named sizes of each recipe's network, with their numbers of parameters."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.models.captioner import Captioner
from seedfast.models.config import ImageModel, ModelConfig, Size, TokenModel

DATA = "50,257 tokens (GPT-2's), images of 64 × 64 pixels in colour, 10 classes"
"""The data for which parameters are counted."""
_TOKENS, _CONTEXT, _PIXELS = 50_257, 1024, 64


def sizes(recipe: str) -> Mapping[Size, int | None]:
    """The parameters of each size of a recipe's network; None if a library that it needs is not installed."""
    return {size: _parameters(model) for size, model in recipes.make(recipe).model.sizes().items()}


@cache
def _parameters(model: ModelConfig) -> int | None:
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in _network(model).parameters())
    except UserError:
        return None


def _network(model: ModelConfig) -> nn.Module:
    if isinstance(model, TokenModel):
        return model.build(vocabulary=_TOKENS, context=_CONTEXT, causal=True)
    if isinstance(model, ImageModel):
        return model.build(size=_PIXELS, channels=3, classes=10)
    assert isinstance(model, Captioner), "there is no other wing"
    grey = (0.5,) * 3
    return model.build(vocabulary=_TOKENS, context=_CONTEXT, size=_PIXELS, channels=3, mean=grey, std=grey)
