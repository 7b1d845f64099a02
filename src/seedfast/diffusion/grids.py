"""Grids: the decreasing noise levels at which a sampler evaluates the network and between which it steps."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.levels import NoiseLevel, clean
from seedfast.diffusion.schedules import DiscreteSchedule
from seedfast.errors import UserError

Grid = list[NoiseLevel]
"""N + 1 levels of scalars, from the noisiest, at which sampling starts, to the last, at which it ends."""

Spacing = Literal["leading", "trailing", "linspace"]


def timesteps(total: int, steps: int, spacing: Spacing) -> Tensor:
    """N distinct times of 0 … T-1, decreasing, int64 [N]; N need not divide T (Lin et al. 2024, table 2).

    leading: ⌊iT/N⌋, which starts below T-1 unless N = T. trailing: from T-1 downwards, spaced by T/N. linspace: both
    ends included. Raises UserError if N is not in 1 … T.
    """
    if not 1 <= steps <= total:
        raise UserError(f"A schedule of {total} times can be sampled in 1 to {total} steps, not {steps}.")
    i = torch.arange(steps)
    match spacing:
        case "leading":
            return (i * total).div(steps, rounding_mode="floor").flip(0)
        case "trailing":
            return total - 1 - (i * total).div(steps, rounding_mode="floor")
        case "linspace":
            gaps = max(1, steps - 1)  # a single step starts at the noisiest time
            return total - 1 - (2 * i * (total - 1) + gaps).div(2 * gaps, rounding_mode="floor")


def table_grid(table: DiscreteSchedule, times_N: Tensor) -> Grid:
    """The levels of these times, followed by the level without noise.

    Raises UserError if the times omit the noisiest one of a schedule with zero terminal SNR, which sampling has to
    start from.
    """
    if table.alpha_bar_T[-1] == 0 and int(times_N[0]) != len(table) - 1:
        raise UserError(
            f"With zero terminal SNR sampling starts at the last time, {len(table) - 1}, not at {int(times_N[0])}: "
            "use the spacing trailing or linspace."
        )
    return [table.at(t) for t in times_N] + [clean()]


def continuous_grid(level: Callable[[Tensor], NoiseLevel], times_N: Tensor) -> Grid:
    """The levels of continuous times of a schedule (such as `flow`), followed by the level without noise."""
    return [level(t) for t in times_N.double()] + [clean()]


def even_times(steps: int, *, first: float = 1.0) -> Tensor:
    """N evenly spaced times from `first` down to first/N, float64 [N]; the next would be 0."""
    return first * (1 - torch.arange(steps, dtype=torch.float64) / steps)


def karras_sigmas(steps: int, *, low: float, high: float, rho: float = 7.0) -> Tensor:
    """N decreasing values of σ, dense where σ is small (Karras et al. 2022, equation 5), float64 [N]."""
    ramp = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
    ends = torch.tensor([high, low], dtype=torch.float64).pow(1 / rho)
    return torch.lerp(ends[0], ends[1], ramp).pow(rho)
