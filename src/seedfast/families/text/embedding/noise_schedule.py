"""Noise schedules γ(t) = -log SNR with their slope, for t in [0, 1]: two from tables, and a learned one.

The bound in continuous time depends on the end points of γ only. The shape between them decides the variance of the
estimated bound (Kingma et al. 2021, "Variational Diffusion Models", section 5.1), and where a sampler's steps fall.

Shapes: B examples (or any times), K pieces of the learned density, T times of a table.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seedfast.diffusion.levels import NoiseLevel, from_gamma
from seedfast.diffusion.schedules import DiscreteSchedule, table

ScheduleKind = Literal["learned", "linear", "cosine"]

TIMES = 1000
"""T of the tabulated schedules, and of the table that samplers step along."""
ANGLE_SCALE = 50
_PIECES = 50
_UNIFORM = 0.2
_TINY = 1e-12
_ENDS = (-3.0, 8.0)


class GammaSchedule(nn.Module):
    """An increasing γ(t)."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """γ and dγ/dt at these times, float64 [B]."""
        raise NotImplementedError

    def negative_log_density(self, time_B: Tensor) -> Tensor | None:
        """-log of a learned density of noise levels at these times, [B]; None where no density is learned."""
        return None

    def level(self, time_B: Tensor) -> NoiseLevel:
        """The variance-preserving noise level at these times."""
        return from_gamma(self(time_B)[0], time_B)

    @torch.no_grad()
    def table(self) -> DiscreteSchedule:
        """The schedule at T evenly spaced times from 0 to 1, on the CPU, for a sampler's grid."""
        device = next(iter([*self.parameters(), *self.buffers()])).device
        gamma_T, _ = self(torch.linspace(0, 1, TIMES, dtype=torch.float64, device=device))
        return DiscreteSchedule(torch.sigmoid(-gamma_T).cpu())


class TabulatedSchedule(GammaSchedule):
    """The γ of a table of β, with linear interpolation between its T times."""

    gamma_T: Tensor

    def __init__(self, kind: Literal["linear", "cosine"]) -> None:
        super().__init__()
        levels = table(kind, TIMES).at(torch.arange(TIMES))
        self.register_buffer("gamma_T", levels.gamma, persistent=False)

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """γ and its slope."""
        place_B = time_B * (TIMES - 1)
        below_B = place_B.long().clamp(max=TIMES - 2)
        step_B = self.gamma_T[below_B + 1] - self.gamma_T[below_B]
        return self.gamma_T[below_B] + (place_B - below_B) * step_B, step_B * (TIMES - 1)


class LearnedSchedule(GammaSchedule):
    """Learned end points, and between them a learned density of noise levels.

    The bound's own gradient moves the end points. The estimate of the bound at γ is e(γ) / p(γ), with e the error and
    p the density; its variance is smallest for p ∝ e. As a function of γ, e has one maximum with exponential tails: at
    the noisy end it falls like the SNR, at the clean end because tokens become certain. So p is a logistic density
    mixed with a uniform one, and `negative_log_density` is the loss that fits it to e. The interval [γ₀, γ₁] is cut
    into equal pieces whose probabilities come from p, and t is the cumulative distribution.

    The density has two parameters, which every example's gradient reaches, instead of a probability for each piece:
    when embeddings move together in training, the maximum of e moves, and a piece whose probability had fallen to
    nearly zero would be drawn too rarely to recover.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor(_ENDS))
        self.centre = nn.Parameter(torch.tensor(sum(_ENDS) / 2))
        self.log_width = nn.Parameter(torch.zeros(()))

    def _probabilities(self) -> Tensor:
        """The probability of each piece, [K]."""
        first, last = self.ends.detach().double()
        edges_K = first + (last - first) * torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64, device=first.device)
        logistic_K = torch.sigmoid((edges_K - self.centre) / self.log_width.double().exp()).diff() + _TINY
        # The uniform part keeps the estimate from being divided by almost nothing.
        return (1 - _UNIFORM) * logistic_K / logistic_K.sum() + _UNIFORM / _PIECES

    def _piece(self, time_B: Tensor, probability_K: Tensor) -> tuple[Tensor, Tensor]:
        """The index of the piece of each time, [B], and the times at which the pieces end, [K]."""
        ends_K = torch.ones(_PIECES, _PIECES, dtype=torch.float64, device=time_B.device).tril() @ probability_K
        return (time_B.unsqueeze(-1) >= ends_K[:-1]).sum(dim=-1), ends_K

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """γ and its slope. Differentiable in the end points only: the bound does not depend on the density."""
        with torch.no_grad():
            probability_K = self._probabilities()
            piece_B, ends_K = self._piece(time_B, probability_K)
            probability_B = probability_K[piece_B]
            relative_B = (piece_B + 1 - (ends_K[piece_B] - time_B) / probability_B) / _PIECES
        first, last = self.ends.double()
        return first + (last - first) * relative_B, (last - first) / (_PIECES * probability_B)

    def negative_log_density(self, time_B: Tensor) -> Tensor:
        """-log p at the levels of these times, up to a constant, [B]; differentiable in p.

        E[e/p · -log p] = -∫ e log p is the cross-entropy from e to p: the KL divergence up to terms without p.
        """
        probability_K = self._probabilities()
        piece_B, _ = self._piece(time_B, probability_K.detach())
        return -probability_K[piece_B].log()


def build_schedule(kind: ScheduleKind) -> GammaSchedule:
    """The schedule of this name."""
    return LearnedSchedule() if kind == "learned" else TabulatedSchedule(kind)


def prior_kl(gamma_1: Tensor, channels: int) -> Tensor:
    """KL(q(z₁|x) ‖ N(0, I)) of one embedding of squared length D: D/2 · log(1 + e^-γ₁).

    Per channel it is (a² x² + s² - 1 - log s²) / 2; with Σ x² = D and a² + s² = 1 only the logarithm remains.
    """
    return channels / 2 * nn.functional.softplus(-gamma_1)


def angle(level: NoiseLevel) -> Tensor:
    """The noise level as the network's time input, the same under every schedule: atan(s/a) · 2/π / `ANGLE_SCALE`.

    The sinusoidal time embedding separates a thousand steps. Here neighbouring levels are nearly the same input, and
    a network that had to learn so would see few of them in each batch; the scale makes their embeddings similar.
    """
    return torch.atan2(level.s, level.a) / (math.pi / 2) / ANGLE_SCALE
