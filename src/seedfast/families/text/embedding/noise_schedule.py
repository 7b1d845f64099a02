"""Noise schedules as γ(t) = -log SNR with its slope, for t in [0, 1]: two that are given and one that is learned.

The bound in continuous time depends on the end points of γ only; what lies between decides how far its estimates
scatter (Kingma et al. 2021, "Variational Diffusion Models", section 5.1), and where a sampler's steps fall.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seedfast.diffusion.levels import NoiseLevel, from_gamma
from seedfast.diffusion.schedules import Table, table

Kind = Literal["learned", "linear", "cosine"]

TIMES = 1000
"""T of the given schedules, and of the table that samplers step along."""
ANGLE_PARTS = 50
_PIECES = 50
_UNIFORM = 0.2
_TINY = 1e-12
_ENDS = (-3.0, 8.0)


class GammaSchedule(nn.Module):
    """γ(t), rising."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """γ and dγ/dt at these times, float64 [B]."""
        raise NotImplementedError

    def level(self, time_B: Tensor) -> NoiseLevel:
        """The variance-preserving noise level at these times."""
        return from_gamma(self(time_B)[0], time_B)

    @torch.no_grad()
    def table(self) -> Table:
        """The schedule at T evenly spaced times from 0 to 1, for a sampler's grid."""
        device = next(iter([*self.parameters(), *self.buffers()])).device
        gamma_T, _ = self(torch.linspace(0, 1, TIMES, dtype=torch.float64, device=device))
        return Table(torch.sigmoid(-gamma_T).cpu())


class Given(GammaSchedule):
    """The γ of a table of β, straight between its T times."""

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


class Learned(GammaSchedule):
    """End points that the bound's own gradient moves, and between them a density of noise levels.

    The estimate at γ is e(γ) / p(γ), which scatters least for p ∝ e, the error there. That is a hump whose tails fall
    exponentially: at the noisy end like the SNR, at the clean one because tokens become certain. So p is logistic, but
    for a part that stays uniform, and `surprise` fits it to e. Equal pieces of [γ₀, γ₁] take their probability from
    it, and t is the cumulative distribution.

    Two numbers that every example has a say in, and not a probability for each piece: where embeddings move together
    in training the hump moves, and pieces that it had left empty would be drawn too seldom to be found again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor(_ENDS))
        self.centre = nn.Parameter(torch.tensor(sum(_ENDS) / 2))
        self.log_width = nn.Parameter(torch.zeros(()))

    def _probabilities(self) -> Tensor:
        first, last = self.ends.detach().double()
        edges_K = first + (last - first) * torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64, device=first.device)
        share_K = torch.sigmoid((edges_K - self.centre) / self.log_width.double().exp()).diff() + _TINY
        # A part stays uniform, so that no estimate is ever divided by almost nothing.
        return (1 - _UNIFORM) * share_K / share_K.sum() + _UNIFORM / _PIECES

    def _piece(self, time_B: Tensor, share_K: Tensor) -> tuple[Tensor, Tensor]:
        """Which piece each time is in, and the times at which the pieces of these probabilities end."""
        ends_K = torch.ones(_PIECES, _PIECES, dtype=torch.float64, device=time_B.device).tril() @ share_K
        return (time_B.unsqueeze(-1) >= ends_K[:-1]).sum(dim=-1), ends_K

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """γ and its slope. Differentiable in the end points only: no density changes the bound."""
        with torch.no_grad():
            share_K = self._probabilities()
            piece_B, ends_K = self._piece(time_B, share_K)
            share_B = share_K[piece_B]
            relative_B = (piece_B + 1 - (ends_K[piece_B] - time_B) / share_B) / _PIECES
        first, last = self.ends.double()
        return first + (last - first) * relative_B, (last - first) / (_PIECES * share_B)

    def surprise(self, time_B: Tensor) -> Tensor:
        """-log of the density at the levels of these times (but for a constant), [B]; differentiable in it.

        E[e/p · -log p] = -∫ e log p is, but for what p does not change, the divergence of p from e.
        """
        share_K = self._probabilities()
        piece_B, _ = self._piece(time_B, share_K.detach())
        return -share_K[piece_B].log()


def build(kind: Kind) -> GammaSchedule:
    """The schedule of this name."""
    return Learned() if kind == "learned" else Given(kind)


def prior_kl(gamma_1: Tensor, channels: int) -> Tensor:
    """KL(q(z₁|x) ‖ N(0, I)) of one embedding of squared length D: D/2 · log(1 + e^-γ₁).

    Per channel it is (a² x² + s² - 1 - log s²) / 2; with Σ x² = D and a² + s² = 1 only the logarithm is left.
    """
    return channels / 2 * nn.functional.softplus(-gamma_1)


def angle(level: NoiseLevel) -> Tensor:
    """The noise level as a time that a network is told, the same under every schedule: atan(s/a), in fiftieths of it.

    The sinusoids of a time were made to tell a thousand steps apart. Here neighbouring levels are nearly the same
    question, and a network that must learn so sees few of them in each batch.
    """
    return torch.atan2(level.s, level.a) / (math.pi / 2) / ANGLE_PARTS
