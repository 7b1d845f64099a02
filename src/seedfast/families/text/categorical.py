"""Categorical distributions: shaping them for sampling, and exact draws from them.

Everything is in float64. Gumbel-max in float32 misses tails below 1e-7, which lowers the temperature (Zheng et al.
2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models"); one 53-bit uniform number and the inverse of
the cumulative distribution do not (docs/identities.md#categorical-draws).
"""

import math

import torch
from torch import Tensor

from seedfast.errors import UserError


def check_shaping(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise UserError for values without a distribution."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"temperature must be 0 (the likeliest token) or positive, not {temperature}.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top-k must be at least 1, not {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top-p must be in (0, 1], not {top_p}.")


def shape(logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Probabilities in float64 over the last dimension, after temperature, then top-k, then top-p.

    Temperature 0 puts everything on the likeliest token. Top-p keeps the smallest set of likeliest tokens whose
    probability reaches p (nucleus sampling, Holtzman et al. 2020).
    """
    logits = logits.double()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # the likeliest stays finite at any temperature
    if top_k is not None and top_k < logits.shape[-1]:
        top = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = ranked.cumsum(dim=-1) - ranked  # the probability of all likelier tokens
        nucleus = ranked.masked_fill(before >= top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, nucleus)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """The category at quantile `u` in [0, 1): float64 [..., V] and [...] → int64 [...].

    Never a category of probability zero.
    """
    cumulative = probabilities.cumsum(dim=-1)
    target = u.unsqueeze(-1) * cumulative[..., -1:]
    # A 53-bit u below 1 times the total stays below it, so some cumulative sum always exceeds the target.
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)
