"""The weights of the cross-entropy: terms that multiply.

What the task alone determines (`task_weights`) is known before any network is run, so a step divides by its sum over
the whole global batch, however that is split into micro-batches. What depends on the network's answers multiplies on
top (`ANSWER_TERMS`): each such term is 1 where it has nothing to say, never below `FLOOR`, and a constant to the
gradient. The realised mean weight is reported ("mean_weight"), for it scales the gradient.

A mistake is measured by the probability that the network gives it, so that weights move continuously and no argmax can
be gamed (`judged_by: argmax` is there for comparison). A penalty p turns the weight of a mistake of probability s into
1 + (p - 1) s: above 1 the mistake costs more than plain cross-entropy, below 1 less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK
from seedfast.families.text.proofreading.curriculum import Ramp

FLOOR = 0.01
"""No weight is lower: an answer that weighs nothing is one that the network may give for free."""
_GRID = 2.0**16


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each position's cross-entropy is multiplied by."""

    unmask: Ramp = field(default=Ramp(start=1.5, end=1.0, steps=300))
    """Where a word is missing. Higher: more is learned of filling in."""
    remask: Ramp = field(default=Ramp(start=0.1, end=1.0, steps=600))
    """Where a word is wrong. Higher: more wrong words are found, and more right ones are doubted."""
    identity: float = 1.0
    """Where a word is right. Higher: fewer right words are doubted."""
    mask_ratio: float = 0.0
    """Missing words weigh (n / k)^this where k of n are missing. Higher: texts with few gaps count more; 1 is the
    weight of the likelihood bound."""
    penalty_mask_correct: Ramp = field(default=Ramp(start=0.5, end=1.0, steps=300))
    """Doubting a right word. Higher: that costs more."""
    penalty_keep_mask: Ramp = field(default=Ramp(end=1.0))
    """Answering a gap with a special symbol ("I do not know"). Higher: that costs more."""
    reward_correct_unmask: float = 1.0
    """What a gap that is filled correctly weighs. Lower: what is known already counts less."""
    state_dependent: bool = False
    """Doubting a right word costs less the more of the visible words are wrong."""
    target_unmask_rate: float | None = None
    """The part of the gaps that is to be attempted: above it, wrong attempts cost more; below it, less."""
    entropy: float = 0.0
    """Higher: a gap whose wrong probability sits on few words costs up to 1 + this times as much."""
    label_smoothing: Ramp = field(default=Ramp(end=0.0))
    """The part of the target that is spread over all symbols. A ramp from 1 to 0 gives soft labels that harden."""
    judged_by: Literal["probability", "argmax"] = "probability"
    """How a mistake is measured in the terms that depend on the network's answers."""

    def __post_init__(self) -> None:
        for key in ("unmask", "remask", "penalty_mask_correct", "penalty_keep_mask"):
            if min(getattr(self, key).values) < FLOOR:
                raise UserError(
                    f"objective.weights.{key} may not fall below {FLOOR}, for what weighs nothing is free; "
                    f"it moves between {' and '.join(map(str, getattr(self, key).values))}."
                )
        for key in ("identity", "reward_correct_unmask"):
            if getattr(self, key) < FLOOR:
                raise UserError(
                    f"objective.weights.{key} may not fall below {FLOOR}, for what weighs nothing is free; "
                    f"it is {getattr(self, key)}."
                )
        if self.target_unmask_rate is not None and not 0 < self.target_unmask_rate <= 1:
            raise UserError(f"objective.weights.target_unmask_rate must lie in (0, 1], not {self.target_unmask_rate}.")
        if self.entropy < 0 or not 0 <= self.mask_ratio <= 1:
            raise UserError(
                f"objective.weights.entropy must not be negative (it is {self.entropy}), and mask_ratio must lie in "
                f"[0, 1] (it is {self.mask_ratio})."
            )
        if not all(0 <= value <= 1 for value in self.label_smoothing.values):
            raise UserError(
                f"objective.weights.label_smoothing is a part in [0, 1], not {self.label_smoothing.values}."
            )


def task_weights(kind_BL: Tensor, options: Weights) -> Tensor:
    """The weight that the task alone gives each position, float32 [B, L]; 0 where nothing is asked.

    A multiple of 2^-16, so that sums of weights are exact: the same in any order, on any number of processes.
    """
    missing_BL = kind_BL == UNMASK
    weight_BL = (
        missing_BL * options.unmask.end
        + (kind_BL == REMASK) * options.remask.end
        + (kind_BL == IDENTITY) * options.identity
    )
    if options.mask_ratio:
        asked_B, missing_B = (kind_BL > 0).sum(dim=1), missing_BL.sum(dim=1).clamp(min=1)
        ratio_B1 = (asked_B / missing_B).unsqueeze(1) ** options.mask_ratio
        weight_BL = torch.where(missing_BL, weight_BL * ratio_B1, weight_BL)
    return (weight_BL * _GRID).round().float() / _GRID


@dataclass(frozen=True)
class Answers:
    """What the network said, as constants, beside what it was asked.

    log_q_BLV: its log-probabilities. words: how many of the symbols are words. Others are as in the task.
    """

    options: Weights
    words: int
    kind_BL: Tensor
    targets_BL: Tensor
    log_q_BLV: Tensor

    @cached_property
    def choice(self) -> Tensor:
        """The likeliest symbol."""
        return self.log_q_BLV.argmax(dim=-1)

    @cached_property
    def special(self) -> Tensor:
        """How much it answers with a special symbol: "I do not know" at a gap, doubt at a word."""
        if self.options.judged_by == "argmax":
            return (self.choice >= self.words).float()
        return self.log_q_BLV[..., self.words :].exp().sum(dim=-1)

    @cached_property
    def right(self) -> Tensor:
        """How much it gives the right answer."""
        if self.options.judged_by == "argmax":
            return (self.choice == self.targets_BL).float()
        return self.log_q_BLV.gather(2, self.targets_BL.unsqueeze(2)).squeeze(2).exp()

    def where(self, kind: int, factor_BL: Tensor) -> Tensor:
        """A factor at the positions of one kind, at least `FLOOR`; 1 elsewhere."""
        return torch.where(self.kind_BL == kind, factor_BL.clamp(min=FLOOR), 1.0)


def _penalty(penalty: float, share_BL: Tensor) -> Tensor:
    return 1 + (penalty - 1) * share_BL


def mask_correct(answers: Answers) -> Tensor | None:
    """Doubting a right word. Rises with the penalty; with the doubt it rises above 1 and falls below."""
    penalty = answers.options.penalty_mask_correct.end
    return None if penalty == 1 else answers.where(IDENTITY, _penalty(penalty, answers.special))


def keep_mask(answers: Answers) -> Tensor | None:
    """Not attempting a gap. Rises with the penalty; with the reluctance it rises above 1 and falls below."""
    penalty = answers.options.penalty_keep_mask.end
    return None if penalty == 1 else answers.where(UNMASK, _penalty(penalty, answers.special))


def correct_unmask(answers: Answers) -> Tensor | None:
    """Filling a gap correctly. Rises with the reward's weight; below 1 it falls with the probability of the word."""
    reward = answers.options.reward_correct_unmask
    return None if reward == 1 else answers.where(UNMASK, _penalty(reward, answers.right))


def state_dependent(answers: Answers) -> Tensor | None:
    """Doubting a right word in a bad text. Falls with the share q of wrong ones among the visible words: 1 - q s."""
    if not answers.options.state_dependent:
        return None
    wrong_B, right_B = ((answers.kind_BL == kind).sum(dim=1) for kind in (REMASK, IDENTITY))
    q_B1 = (wrong_B / (wrong_B + right_B).clamp(min=1)).unsqueeze(1)
    return answers.where(IDENTITY, 1 - q_B1 * answers.special)


def unmask_rate(answers: Answers) -> Tensor | None:
    """Attempting gaps wrongly. Rises with the part of the text's gaps that is attempted, over the target."""
    target = answers.options.target_unmask_rate
    if target is None:
        return None
    missing_BL = answers.kind_BL == UNMASK
    attempted_B = ((1 - answers.special) * missing_BL).sum(dim=1) / missing_BL.sum(dim=1).clamp(min=1)
    wrong_BL = (1 - answers.special - answers.right).clamp(min=0)
    return answers.where(UNMASK, 1 + (attempted_B / target - 1).unsqueeze(1) * wrong_BL)


def peaked_mistake(answers: Answers) -> Tensor | None:
    """How few symbols share the wrong probability of a gap: 1 + λ (log V - H) / log V. Rises with λ, falls with H."""
    strength = answers.options.entropy
    if not strength:
        return None
    wrong_BLV = answers.log_q_BLV.exp().scatter(2, answers.targets_BL.unsqueeze(2), 0.0)
    share_BLV = wrong_BLV / wrong_BLV.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    entropy_BL = -torch.xlogy(share_BLV, share_BLV).sum(dim=-1)
    most = torch.log(torch.tensor(float(answers.log_q_BLV.shape[-1])))
    return answers.where(UNMASK, 1 + strength * (1 - entropy_BL / most))


ANSWER_TERMS: tuple[Callable[[Answers], Tensor | None], ...] = (
    mask_correct,
    keep_mask,
    correct_unmask,
    state_dependent,
    unmask_rate,
    peaked_mistake,
)
"""Each returns its factor, [B, L], or None where its option leaves everything as it is. Their order is of no matter."""


def answer_weights(answers: Answers) -> Tensor | None:
    """The product of all terms that depend on the network's answers, [B, L]; None if there are none."""
    product: Tensor | None = None
    for term in ANSWER_TERMS:
        factor_BL = term(answers)
        if factor_BL is not None:
            product = factor_BL if product is None else product * factor_BL
    return product
