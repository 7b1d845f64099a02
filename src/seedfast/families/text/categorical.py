"""Categorical distributions: shaping them for sampling, and exact draws from them.

Everything is in float64. Gumbel-max in float32 misses tails below 1e-7, which lowers the temperature (Zheng et al.
2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models"); one 53-bit uniform number and the inverse of
the cumulative distribution do not (docs/identities.md#categorical-draws).
"""

import math

import torch
from torch import Tensor

from seedfast.errors import UserError

_RANKED = 128
"""Tokens that top-p ranks at first."""
_UNIT = 2.0**-51
"""What running sums on a GPU are multiples of: sums of probabilities below 4 are exact in float64."""


def check_shaping(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise UserError for values without a distribution."""
    if not (math.isfinite(temperature) and temperature >= 0):
        reason = f"temperature must be 0 (the likeliest token) or positive, not {temperature}."
        raise UserError(reason, option="temperature")
    if top_k is not None and top_k < 1:
        raise UserError(f"top-k must be at least 1, not {top_k}.", option="top_k")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top-p must be in (0, 1], not {top_p}.", option="top_p")


def shape(logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Probabilities in float64 over the last dimension, after temperature, then top-k, then top-p.

    Temperature 0 puts everything on the likeliest token. Top-p keeps the smallest set of likeliest tokens whose
    probability reaches p (nucleus sampling, Holtzman et al. 2020).
    """
    if temperature == 1 and top_k is None and (top_p is None or top_p == 1):
        return logits.softmax(dim=-1, dtype=torch.float64)  # one kernel: at one position it is time that counts
    logits = logits.double()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    if temperature != 1:  # the likeliest stays finite at any temperature
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        top = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:
        probabilities = _nucleus(probabilities, top_p)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities of the nucleus, and zero for all others; of equal probabilities the first ones are likelier.

    A nucleus is small as a rule, so ever more of the likeliest are ranked until they reach p, instead of all.
    """
    size = probabilities.shape[-1]
    count = min(_RANKED, size)
    while True:
        ranked = probabilities.topk(count, dim=-1).values
        cumulative = running_sum(ranked)
        if count == size or bool((cumulative[..., -1] >= top_p).all()):
            break
        count = min(4 * count, size)
    # Sums are compared as they were added up: `cumulative - ranked` rounds anew, and a token behind the boundary could
    # count as a member if another row of the batch had it ranked.
    members = 1 + (cumulative[..., :-1] < top_p).sum(dim=-1, keepdim=True)
    least = ranked.gather(-1, members - 1)
    # Equal probabilities may lie on both sides of the boundary.
    likelier, equal = probabilities > least, probabilities == least
    inside = likelier | (equal & (equal.cumsum(dim=-1) <= members - likelier.sum(dim=-1, keepdim=True)))
    return probabilities.masked_fill(~inside, 0.0)


def sample(
    logits: Tensor, u: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """`draw` from what `shape` makes of logits: [..., V] and float64 [...] → int64 [...].

    Only tokens that can be drawn are shaped: the likeliest at temperature 0, the k likeliest of top-k.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is None or top_k >= logits.shape[-1]:
        return draw(shape(logits, temperature=temperature, top_p=top_p), u)
    order = logits.double().topk(top_k, dim=-1).indices.sort(dim=-1).values
    drawn = draw(shape(logits.gather(-1, order), temperature=temperature, top_p=top_p), u)
    return order.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """The category at quantile `u` in [0, 1): float64 [..., V] and [...] → int64 [...].

    Never a category of probability zero.
    """
    cumulative = running_sum(probabilities)
    target = u.unsqueeze(-1) * cumulative[..., -1:]
    # A 53-bit u below 1 times the total stays below it, so some cumulative sum always exceeds the target.
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def running_sum(probabilities: Tensor) -> Tensor:
    """Cumulative sums over the last dimension of float64 probabilities, [..., V], which never fall.

    On a CPU they are added up one after the other. A GPU adds in parallel and rounds differently at each place, so that
    sums of numbers ≥ 0 can fall, and of a single row in another order each time. Whole multiples of one unit have
    exact sums: there the probabilities are rounded down to some first.
    """
    if probabilities.device.type == "cpu":
        return probabilities.cumsum(dim=-1)
    return (probabilities / _UNIT).long().cumsum(dim=-1) * _UNIT
