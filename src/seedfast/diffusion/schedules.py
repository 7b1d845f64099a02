"""Noise schedules: the noise level of each time."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.levels import NoiseLevel

Betas = Literal["linear", "cosine", "quadratic", "sigmoid"]


def betas(kind: Betas, steps: int, *, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """The variances β_t of the noise of each of T steps, float64 [T]. The cosine schedule ignores `start` and `end`."""
    unit = torch.linspace(0, 1, steps, dtype=torch.float64)
    match kind:
        case "linear":  # Ho et al. 2020
            return start + (end - start) * unit
        case "quadratic":
            return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * unit).square()
        case "sigmoid":
            return torch.sigmoid(12 * unit - 6) * (end - start) + start
        case "cosine":  # Nichol & Dhariwal 2021, equation 17; β is clamped so that the last step keeps some signal
            t = torch.arange(steps + 1, dtype=torch.float64) / steps
            alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
            return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def zero_terminal_snr(alpha_bar_T: Tensor) -> Tensor:
    """ᾱ shifted and scaled so that its last is exactly 0 and its first unchanged (Lin et al. 2024, algorithm 1)."""
    a_T = alpha_bar_T.sqrt()
    return ((a_T - a_T[-1]) * (a_T[0] / (a_T[0] - a_T[-1]))).square()


@dataclass(frozen=True)
class DiscreteSchedule:
    """A discrete schedule: ᾱ_t for t = 0 … T-1, float64 [T], decreasing."""

    alpha_bar_T: Tensor

    def __len__(self) -> int:
        """T."""
        return len(self.alpha_bar_T)

    def at(self, t: Tensor) -> NoiseLevel:
        """The variance-preserving level of times t (int64, any shape)."""
        alpha_bar = self.alpha_bar_T[t]
        return NoiseLevel(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), t)


def table(
    kind: Betas, steps: int, *, start: float = 1e-4, end: float = 0.02, zero_terminal: bool = False
) -> DiscreteSchedule:
    """The table of a schedule; `zero_terminal` rescales it to zero terminal SNR."""
    alpha_bar_T = (1 - betas(kind, steps, start=start, end=end)).cumprod(dim=0)
    return DiscreteSchedule(zero_terminal_snr(alpha_bar_T) if zero_terminal else alpha_bar_T)


def linear_gamma(time: Tensor, first: float, last: float) -> Tensor:
    """γ(t) = γ₀ + (γ₁ - γ₀) t, for continuous times in [0, 1] (Kingma et al. 2021)."""
    return first + (last - first) * time


def cosine_gamma(time: Tensor, first: float, last: float) -> Tensor:
    """γ = 2 log tan(π u / 2) of the level a = cos(π u / 2); u is linear in time, and γ runs from γ₀ to γ₁."""
    low, high = math.atan(math.exp(first / 2)), math.atan(math.exp(last / 2))
    return 2 * torch.tan(low + (high - low) * time).log()
