"""What an identity's check answers, and the two yardsticks that several of them share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_P_VALUE = 1e-5
"""All draws are keyed, so a χ² test that has passed once passes for ever."""

ROUNDING = 2e-6
"""Relative rounding of the families' float32 losses: the tolerance of identities that hold exactly."""


@dataclass(frozen=True)
class Check:
    """One identity on one implementation: its number, what it says, what was measured, and whether it holds."""

    number: int
    name: str
    holds: bool
    detail: str

    def __str__(self) -> str:
        return f"identity {self.number:<2}  {self.name}: {self.detail}"


def apart(values: Tensor | float, expected: Tensor | float) -> float:
    """The largest relative difference (below 1 in size, absolute); infinite where a value is not finite."""
    a, b = (torch.as_tensor(each, dtype=torch.float64).detach() for each in (values, expected))
    difference = float(((a - b).abs() / b.abs().clamp(min=1)).max())
    return difference if math.isfinite(difference) else math.inf


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's χ² test: how likely counts this far from the probabilities, or farther, are.

    Zero if something happened that has probability zero.
    """
    expected = probabilities.double() * counts.sum()
    possible = expected > 0
    if bool(counts[~possible].any()):
        return 0.0
    statistic = ((counts[possible] - expected[possible]).square() / expected[possible]).sum()
    freedom = torch.tensor(int(possible.sum()) - 1, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def total_variation(counts: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The total variation between frequencies and probabilities, and what sampling noise alone leads one to expect."""
    count = float(counts.sum())
    measured = float((counts / count - probabilities).abs().sum()) / 2
    # E|X - np| of a binomial X tends to √(2 n p (1-p) / π).
    noise = float((probabilities * (1 - probabilities) * 2 / (math.pi * count)).sqrt().sum()) / 2
    return measured, noise
