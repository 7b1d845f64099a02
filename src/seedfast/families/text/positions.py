"""Random choice of positions: an exact number in each example, by the example's own keyed draws.

Every function takes the number of positions for each example and returns a mask, so that several can be combined.
"""

import torch
from torch import Tensor

from seedfast.keys import Draws

_SPANS = 3
_STICKINESS = 10.0
_CHUNKS = 8


def ranks(priority_BL: Tensor, eligible_BL: Tensor) -> Tensor:
    """The rank of each position among the eligible ones of its row, lowest priority first; the others come last."""
    order_BL = priority_BL.masked_fill(~eligible_BL, torch.inf).argsort(dim=1, stable=True)
    places_BL = torch.arange(order_BL.shape[1], device=order_BL.device).expand_as(order_BL)
    return torch.empty_like(order_BL).scatter_(1, order_BL, places_BL)


def first(priority_BL: Tensor, eligible_BL: Tensor, count_B: Tensor) -> Tensor:
    """The `count_B` eligible positions of lowest priority in each row (or all, if there are fewer), bool [B, L]."""
    return eligible_BL & (ranks(priority_BL, eligible_BL) < count_B.unsqueeze(1))


def at_random(stream: str, eligible_BL: Tensor, count_B: Tensor, draws: Draws) -> Tensor:
    """A uniformly random set of `count_B` eligible positions in each row, bool [B, L]."""
    return first(draws.uniform(stream, eligible_BL.shape[1], dtype=torch.float64), eligible_BL, count_B)


def two_at_random(
    stream: str, eligible_BL: Tensor, first_B: Tensor, second_B: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of `first_B` and `second_B` eligible positions: consecutive parts of one random order."""
    u_BL = draws.uniform(stream, eligible_BL.shape[1], dtype=torch.float64)
    rank_BL, end_B1 = ranks(u_BL, eligible_BL), first_B.unsqueeze(1)
    first_BL = eligible_BL & (rank_BL < end_B1)
    return first_BL, eligible_BL & (rank_BL >= end_B1) & (rank_BL < end_B1 + second_B.unsqueeze(1))


def in_spans(stream: str, eligible_BL: Tensor, count_B: Tensor, draws: Draws) -> Tensor:
    """`count_B` positions in whole pieces: the text is cut at six random places, its pieces are taken in random order.

    The last piece is taken from its left as far as needed.
    """
    length = eligible_BL.shape[1]
    position_L = torch.arange(length, dtype=torch.float64)
    cuts_BK = draws.uniform(f"{stream}/cuts", 2 * _SPANS, dtype=torch.float64) * length
    piece_BL = (cuts_BK.unsqueeze(2) <= position_L).sum(dim=1)
    order_BP = draws.permutation(f"{stream}/pieces", 2 * _SPANS + 1)
    return first(order_BP.gather(1, piece_BL) * length + position_L, eligible_BL, count_B)


def sticky(stream: str, eligible_BL: Tensor, count_B: Tensor, draws: Draws) -> Tensor:
    """`count_B` positions in clusters: in each of eight rounds, neighbours of earlier ones are ten times as likely.

    A round draws without replacement, with probabilities proportional to these weights (Efraimidis & Spirakis 2006).
    """
    taken_BL = torch.zeros_like(eligible_BL)
    for chunk in range(_CHUNKS):
        round_B = count_B * (chunk + 1) // _CHUNKS - count_B * chunk // _CHUNKS
        neighbours_BL = torch.zeros_like(taken_BL)
        neighbours_BL[:, 1:] |= taken_BL[:, :-1]
        neighbours_BL[:, :-1] |= taken_BL[:, 1:]
        u_BL = draws.at(chunk).uniform(stream, eligible_BL.shape[1], dtype=torch.float64)
        race_BL = -torch.log1p(-u_BL) / torch.where(neighbours_BL, _STICKINESS, 1.0)
        taken_BL |= first(race_BL, eligible_BL & ~taken_BL, round_B)
    return taken_BL
