"""Noise levels: the amount of signal and of noise in a noised example.

Everything here is about x = a·x0 + s·ε with ε ~ N(0, I). Variance-preserving diffusion has a² + s² = 1 (a² = ᾱ), flow
matching a + s = 1, variance-exploding diffusion a = 1 (s = σ). No formula of this package assumes one of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """The noise level of x = a·x0 + s·ε, in float64: one for the whole batch (scalars) or one for each example ([B]).

    time: the place on the schedule, in the schedule's own units (t of T, a time in [0, 1], or σ).
    """

    a: Tensor
    s: Tensor
    time: Tensor

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio a²/s²; infinite without noise."""
        return self.a.square() / self.s.square()

    @property
    def gamma(self) -> Tensor:
        """γ = -log SNR (Kingma et al. 2021, "Variational Diffusion Models")."""
        return 2 * (self.s.log() - self.a.log())


def from_gamma(gamma: Tensor, time: Tensor) -> NoiseLevel:
    """The variance-preserving level with log SNR = -γ: a² = sigmoid(-γ), s² = sigmoid(γ). Differentiable in γ."""
    return NoiseLevel(torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt(), time)


def flow(time: Tensor) -> NoiseLevel:
    """The straight path from data (0) to noise (1): a = 1 - t, s = t (Lipman et al. 2023, Liu et al. 2023)."""
    return NoiseLevel(1 - time, time, time)


def variance_exploding(sigma: Tensor) -> NoiseLevel:
    """Data plus noise of standard deviation σ (Karras et al. 2022, "EDM")."""
    return NoiseLevel(torch.ones_like(sigma), sigma, sigma)


def clean(time: float = 0.0) -> NoiseLevel:
    """The level without noise, at which every sampler ends."""
    one = torch.ones((), dtype=torch.float64)
    return NoiseLevel(one, 0 * one, time * one)


def match_dims(values: Tensor, x: Tensor) -> Tensor:
    """Per-example numbers [B] (or one scalar) shaped to multiply x [B, …]; numbers [B] take the dtype of x."""
    return values if values.dim() == 0 else values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def add_noise(x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
    """x = a·x0 + s·ε in float32 or better: in bf16 the noise would lose up to 0.4 % of its standard deviation."""
    x0, eps = (each if each.dtype == torch.float64 else each.float() for each in (x0, eps))
    return match_dims(level.a, x0) * x0 + match_dims(level.s, eps) * eps


def eps_from_x0(x: Tensor, x0: Tensor, level: NoiseLevel) -> Tensor:
    """The noise in x, given its clean example: ε = (x - a·x0) / s."""
    return (x - match_dims(level.a, x) * x0) / match_dims(level.s, x)
