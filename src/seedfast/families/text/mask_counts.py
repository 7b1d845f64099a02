"""How many tokens of a text are masked in training, and by which factor their cross-entropy counts.

With n scored tokens, for any probabilities q(k) > 0 of masking k = 1 … n of them, E_k [CE / (k q(k))] is the NELBO. q
only decides how much its gradient deviates. The mean of the gradients of k tokens, predicted almost independently, has
a variance of about 1/k, so the best importance sampling, q proportional to the root of the second moment (as for the
time steps of Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 18), is q(k) ∝ 1/√k.
Here it is q(k) ∝ √(k+½) - √(k-½), the same up to about 1/(32 k²) of it, whose sums are differences of two roots.

Shapes: P texts, or blocks of texts.
"""

import math
from fractions import Fraction
from typing import Literal, TypeVar

from torch import Tensor

CountLaw = Literal["root-k", "fixed-k"]
"""q(k) ∝ 1/√k, or uniform."""

MEASURED: Literal["fixed-k"] = "fixed-k"
"""The law for bounds that are measured alone, or of few draws: its loss deviates less, by half with one draw."""

Number = TypeVar("Number", Tensor, float)


def counts(law: CountLaw, u_P: Tensor, scored_P: Tensor) -> tuple[Tensor, Tensor]:
    """k at the quantiles `u_P` of its law, int64, and 1 / (k q(k)), float64; without scored tokens 1 and 0."""
    n_P = scored_P.double()
    place_P = u_P * n_P if law == "fixed-k" else _root_place(u_P, n_P)
    k_P = (1 + place_P.long()).minimum(scored_P.clamp(min=1))  # a place may be rounded up
    if law == "fixed-k":
        return k_P, n_P / k_P
    steps_P = (k_P.double() + 0.5).sqrt() - (k_P.double() - 0.5).sqrt()
    return k_P, ((n_P + 0.5).sqrt() - 0.5**0.5) / (k_P * steps_P)


def most_masked(law: CountLaw, rows: int, blocks: int, size: int, group: int) -> int:
    """The largest number of tokens that are masked in `rows` texts of one global batch, of `group` texts.

    A text has `blocks` blocks of `size` tokens, each with a quantile of its own. No two of the quantiles lie in one
    stratum [i/s, (i+1)/s): those of the texts with s = group, or those of the blocks of a text with s = blocks. So the
    upper ends of the highest strata bound the sum of the places.
    """
    strata, count, repeats = (group, min(rows, group), 1) if blocks == 1 else (blocks, blocks, rows)
    ends = [1 - Fraction(i, strata) for i in range(count)]
    places = sum(ends) * size if law == "fixed-k" else sum(_root_place(float(end), size) for end in ends)
    return min(rows * blocks * size, rows * blocks + math.floor(repeats * places))


def _root_place(u: Number, scored: Number) -> Number:
    """k = 1 + ⌊place⌋ at the quantile u of root-k, the inverse of q(1) + … + q(k)."""
    low, high = 0.5**0.5, (scored + 0.5) ** 0.5
    root: Number = low + u * (high - low)
    return root * root - 0.5
