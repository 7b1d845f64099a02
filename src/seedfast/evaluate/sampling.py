"""Samples from a trained model, each a function of the seed and its own number."""

from typing import Any

import torch

from seedfast.evaluate.trained import Trained
from seedfast.keys import Draws


def sample(model: Trained, request: Any, *, seed: int, count: int) -> Any:
    """Fulfil a request for `count` samples. Sample i is the same whatever else is sampled beside it."""
    positions_B = torch.arange(count, device=model.placement.device)
    draws = Draws(seed=seed, scope="sample", positions_B=positions_B, group=count)
    with model.placement.autocast():
        return model.family.sample(model.network, request, draws)
