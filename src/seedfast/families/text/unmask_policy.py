"""Which positions the steps of unmasking choose, and which they mask again, as a request says.

The choice never depends on the tokens that are about to be drawn.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.positions import first
from seedfast.families.text.request import TextRequest, at_least_one
from seedfast.families.text.unmask_step import MaskedPage, Step

CONFIDENCE_LEVELS = 1 << 10
"""Confidence is compared in steps of 1/1024, and of equal positions the first comes first: without it, rounding, which
depends on the batch, would decide between equally likely positions, such as those of an empty text."""
NoiseSchedule = Literal["linear", "cosine", "polynomial"]


def alpha(schedule: str, t: Tensor) -> Tensor:
    """The probability that a token is still visible at time t in [0, 1]: 1 at t = 0, 0 at t = 1."""
    match schedule:
        case "linear":
            return 1 - t
        case "cosine":
            return 1 - torch.cos(math.pi / 2 * (1 - t))
        case "polynomial":
            return 1 - t**2
    raise ValueError(f"no noise schedule is called {schedule}")


# The default decoding: one network evaluation for each token, at random positions, which draws exactly from the model.
# By a judge (`bench/decoding.py`, 700 steps on tinyshakespeare, two seeds of 32 texts) it has 3.65 ± 0.05 nats a token,
# in the order of confidence 3.56 ± 0.05, in half the steps 3.73 ± 0.07; at temperature 0.8 it has 3.26, but of duller
# text: the entropy is 2.74, and that of real text 2.91.
@dataclass(frozen=True, kw_only=True)
class MaskedRequest(TextRequest):
    """A request to a masked diffusion model."""

    steps: int | None = None
    """Parallel decoding steps (default: one for each token); of a text longer than the context, those of a window."""
    order: Literal["random", "confidence", "ancestral"] = "random"
    """Which positions are unmasked first: random ones, those whose likeliest token is likeliest, or each at a random
    time of its own (MDLM's reverse process)."""
    remdm: float = 0.0
    """Strength η of remasking (ReMDM): each step masks some generated tokens again; 0 masks none."""
    remdm_rule: Literal["rescale", "cap"] = "rescale"
    """`rescale` remasks with η times the largest possible probability, `cap` with at most η."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps)
        if not 0 <= self.remdm <= 1:
            raise UserError(f"remdm must be in [0, 1], not {self.remdm}.")
        if self.remdm and (self.order != "ancestral" or self.steps is None):
            raise UserError("--remdm needs --order ancestral and a number of --steps.")
        if not self.remdm and self.remdm_rule != "rescale":
            raise UserError("--remdm-rule has no effect without --remdm.")

    @property
    def step_count(self) -> int | None:
        """The number of steps; None for one for each token."""
        return self.steps

    @property
    def why_no_likelihood(self) -> str | None:
        """Remasking writes a token several times."""
        if not self.remdm:
            return None
        return (
            "Remasking (--remdm) rewrites tokens, so the probability of a text is a sum over all ways to it: leave it "
            "out."
        )

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words, with the number of network evaluations."""
        steps = "one network evaluation for each token" if self.steps is None else f"{self.steps} network evaluations"
        remasking = [f"remasking {self.remdm:g} ({self.remdm_rule})"] if self.remdm else []
        return ", ".join([f"{self.order} order", *remasking, steps, *self.shaping])

    def evaluations(self, tokens: int) -> int:
        """One for each step."""
        return self.step_count or tokens


@dataclass(frozen=True)
class Policy:
    """The steps of a request: which positions each unmasks, and which it masks again."""

    request: MaskedRequest
    schedule: NoiseSchedule

    def masked(self, progress: float) -> float:
        """The fraction of the open positions that is still masked after this fraction of the steps; 0 at the end.

        Without a number of steps, each step unmasks one token, whatever the schedule.
        """
        if progress == 1:
            return 0.0
        schedule = self.schedule if self.request.step_count else "linear"
        return float(1 - alpha(schedule, torch.tensor(1 - progress, dtype=torch.float64)))

    def select(self, step: Step) -> Tensor:
        """The open positions that a step unmasks, bool [B, L].

        random, confidence: a fixed number in each step. ancestral: MDLM's reverse process, in which each position has
        a time of its own and is unmasked by the step that passes it. ReMDM draws new times in each step.
        """
        open_BL, length = step.page.open_BL, step.page.open_BL.shape[1]
        if self.request.remdm:
            u_BL = step.draws.uniform("time", length, dtype=torch.float64)
            return open_BL & (u_BL < self.remdm_unmasked(step.index))
        masked_of = {progress: self.masked(progress) for progress in set(step.progress)}
        masked_B = torch.tensor([masked_of[each] for each in step.progress], dtype=torch.float64, device=open_BL.device)
        if self.request.order == "ancestral":
            return open_BL & (step.text_draws.uniform("time", length, dtype=torch.float64) >= masked_B[:, None])
        take_B = open_BL.sum(dim=1) - (step.count_B * masked_B.float()).round().long()
        return first(-self.priority(step), open_BL, take_B)

    def priority(self, step: Step) -> Tensor:
        """The order in which open positions are unmasked, float64 [B, L], the highest first."""
        open_BL = step.page.open_BL
        if self.request.order == "random":
            return step.draws.uniform("position", open_BL.shape[1], dtype=torch.float64)
        top_N = (step.at(open_BL, step.confidence) * CONFIDENCE_LEVELS).round()
        return torch.zeros(open_BL.shape, dtype=torch.float64, device=open_BL.device).masked_scatter(open_BL, top_N)

    def revise(self, step: Step, page: MaskedPage) -> MaskedPage:
        """The page after a step, with some of the tokens that were generated before it masked again.

        ReMDM (Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", equation 7): each
        generated token is masked with probability σ. The fraction of masked tokens remains that of the noise schedule,
        because correspondingly more are unmasked (`remdm_unmasked`).
        """
        if not self.request.remdm:
            return page
        u_BL = step.draws.uniform("remdm", page.tokens_BL.shape[1], dtype=torch.float64)
        return page.remask(step.page.written & (u_BL < self.sigma(step.index)), step.mask)

    def sigma(self, index: int) -> float:
        """ReMDM's σ of a step: at most min(1, (1 - α_s) / α_t), above which the schedule cannot hold."""
        request = self.request
        assert request.steps is not None
        visible, masked_after = 1 - self.masked(index / request.steps), self.masked((index + 1) / request.steps)
        most = min(1.0, masked_after / visible) if visible else 1.0
        return request.remdm * most if request.remdm_rule == "rescale" else min(request.remdm, most)

    def remdm_unmasked(self, index: int) -> float:
        """The fraction of masked tokens that a step of ReMDM unmasks: (α_s - (1 - σ) α_t) / (1 - α_t)."""
        assert self.request.steps is not None
        if index >= self.request.steps:
            return 1.0
        before, after = (self.masked(done / self.request.steps) for done in (index, index + 1))
        return (1 - after - (1 - self.sigma(index)) * (1 - before)) / before
