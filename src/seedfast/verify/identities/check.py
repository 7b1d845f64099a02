"""The result of checking an identity, and the two measures that several of them share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_P_VALUE = 1e-5
"""The significance level of χ² tests. All draws are keyed, so a test that has passed once always passes."""

ROUNDING = 2e-6
"""Relative rounding of the families' float32 losses: the tolerance of identities that hold exactly."""


@dataclass(frozen=True)
class Check:
    """The result of one identity on one implementation.

    slug: the identity's heading in docs/identities.md. name: the part of it that was checked. holds: whether it is
    satisfied. detail: what was measured.
    """

    slug: str
    name: str
    holds: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.slug:<20}  {self.name}: {self.detail}"


def relative_error(values: Tensor | float, expected: Tensor | float) -> float:
    """The largest relative difference (absolute below 1 in size); infinite where a value is not finite."""
    a, b = (torch.as_tensor(each, dtype=torch.float64).detach() for each in (values, expected))
    difference = float(((a - b).abs() / b.abs().clamp(min=1)).max())
    return difference if math.isfinite(difference) else math.inf


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's χ² test: the probability of counts at least this far from the expected ones.

    Zero if a category of probability zero was drawn.
    """
    expected = probabilities.double() * counts.sum()
    possible = expected > 0
    if bool(counts[~possible].any()):
        return 0.0
    statistic = ((counts[possible] - expected[possible]).square() / expected[possible]).sum()
    freedom = torch.tensor(int(possible.sum()) - 1, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def total_variation(counts: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The total variation between frequencies and probabilities, and its expectation from sampling noise alone."""
    count = float(counts.sum())
    measured = float((counts / count - probabilities).abs().sum()) / 2
    # E|X - np| of a binomial X tends to √(2 n p (1-p) / π).
    noise = float((probabilities * (1 - probabilities) * 2 / (math.pi * count)).sqrt().sum()) / 2
    return measured, noise
