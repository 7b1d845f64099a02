"""The weights of the cross-entropy: a product of terms.

The weights that depend on the task alone (`task_weights`) are known before the network runs, so a step divides by their
sum over the whole global batch, however that is split into micro-batches. The terms that depend on the network's
answers (`ANSWER_TERMS`) multiply them: each is 1 where it does not apply, never below `FLOOR`, and a constant for the
gradient. The realised mean weight is reported ("mean_weight"), because it scales the gradient.

A mistake is measured by the probability that the network gives it, so that weights change continuously with the logits
(`judged_by: argmax` is for comparison). A penalty p turns the weight of a mistake of probability s into 1 + (p - 1) s:
above 1 the mistake costs more than plain cross-entropy, below 1 less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.options import AtLeast, Between, Example, check

FLOOR = 0.01
"""The lowest weight: an answer of weight 0 would cost the network nothing."""
_GRID = 2.0**16


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The factors of each position's cross-entropy."""

    unmask: Ramp = field(default=Ramp(start=1.5, end=1.0, steps=300))
    """Weight of gaps. Higher: better unmasking."""
    remask: Ramp = field(default=Ramp(start=0.1, end=1.0, steps=600))
    """Weight of wrong words. Higher: more wrong words are found, and more right ones are doubted."""
    identity: Annotated[float, AtLeast(FLOOR)] = 1.0
    """Weight of right words. Higher: fewer right words are doubted."""
    mask_ratio: Annotated[float, Between(0, 1)] = 0.0
    """Exponent r of a factor (n / k)^r of gaps where k of n words are masked. Higher: texts with few gaps count more;
    1 is the weight of the likelihood bound."""
    penalty_mask_correct: Ramp = field(default=Ramp(start=0.5, end=1.0, steps=300))
    """Penalty of doubting a right word. Higher: that costs more."""
    penalty_keep_mask: Ramp = field(default=Ramp(end=1.0))
    """Penalty of answering a gap with a special symbol ("I do not know"). Higher: that costs more."""
    reward_correct_unmask: Annotated[float, AtLeast(FLOOR)] = 1.0
    """Weight of a gap that is filled correctly. Lower: words that are already known count less."""
    state_dependent: bool = False
    """Reduce the cost of doubting a right word with the fraction of visible words that are wrong."""
    target_unmask_rate: Annotated[float | None, Between(0, 1, open_low=True), Example(0.5)] = None
    """The desired fraction of gaps that are attempted: above it, wrong attempts cost more; below it, less."""
    entropy: Annotated[float, AtLeast(0)] = 0.0
    """Strength λ of a factor of up to 1 + λ for gaps whose wrong probability is concentrated on few words."""
    label_smoothing: Ramp = field(default=Ramp(end=0.0))
    """The fraction of the target that is spread over all symbols. A ramp from 1 to 0 gives soft labels that harden."""
    judged_by: Annotated[Literal["probability", "argmax"], Example("argmax", state_dependent=True)] = "probability"
    """How a mistake is measured in the terms that depend on the network's answers."""

    def __post_init__(self) -> None:
        check(self, "objective.weights.")
        for key in ("unmask", "remask", "penalty_mask_correct", "penalty_keep_mask"):
            values = getattr(self, key).values
            if min(values) < FLOOR:
                raise UserError(
                    f"objective.weights.{key} must be at least {FLOOR}, because an answer without a weight costs "
                    f"nothing; it moves between {values[0]} and {values[1]}."
                )
        if not all(0 <= value <= 1 for value in self.label_smoothing.values):
            raise UserError(f"objective.weights.label_smoothing must be in [0, 1], not {self.label_smoothing.values}.")


def task_weights(kind_BL: Tensor, options: Weights) -> Tensor:
    """The weight of each position that depends on the task alone, float32 [B, L]; 0 where there is no target.

    A multiple of 2^-16, so that sums of weights are exact: the same in any order, on any number of processes.
    """
    missing_BL = kind_BL == UNMASK
    weight_BL = (
        missing_BL * options.unmask.end
        + (kind_BL == REMASK) * options.remask.end
        + (kind_BL == IDENTITY) * options.identity
    )
    if options.mask_ratio:
        targets_B, missing_B = (kind_BL > 0).sum(dim=1), missing_BL.sum(dim=1).clamp(min=1)
        ratio_B1 = (targets_B / missing_B).unsqueeze(1) ** options.mask_ratio
        weight_BL = torch.where(missing_BL, weight_BL * ratio_B1, weight_BL)
    return (weight_BL * _GRID).round().float() / _GRID


@dataclass(frozen=True)
class Answers:
    """The network's answers, as constants, with the task.

    log_q_BLV: log-probabilities. words: the number of words among the symbols. The others are as in the task.
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
        """The probability of a special symbol: "I do not know" at a gap, doubt at a word, [B, L]."""
        if self.options.judged_by == "argmax":
            return (self.choice >= self.words).float()
        return self.log_q_BLV[..., self.words :].exp().sum(dim=-1)

    @cached_property
    def right(self) -> Tensor:
        """The probability of the right answer, [B, L]."""
        if self.options.judged_by == "argmax":
            return (self.choice == self.targets_BL).float()
        return self.log_q_BLV.gather(2, self.targets_BL.unsqueeze(2)).squeeze(2).exp()

    def where(self, kind: int, factor_BL: Tensor) -> Tensor:
        """A factor at the positions of one kind, at least `FLOOR`; 1 elsewhere."""
        return torch.where(self.kind_BL == kind, factor_BL.clamp(min=FLOOR), 1.0)


def _penalty(penalty: float, share_BL: Tensor) -> Tensor:
    return 1 + (penalty - 1) * share_BL


def mask_correct(answers: Answers) -> Tensor | None:
    """The factor of right words for being doubted: rises with the penalty; with the doubt, if the penalty exceeds 1."""
    penalty = answers.options.penalty_mask_correct.end
    return None if penalty == 1 else answers.where(IDENTITY, _penalty(penalty, answers.special))


def keep_mask(answers: Answers) -> Tensor | None:
    """The factor of gaps for answering with a special symbol: rises with the penalty, as `mask_correct` does."""
    penalty = answers.options.penalty_keep_mask.end
    return None if penalty == 1 else answers.where(UNMASK, _penalty(penalty, answers.special))


def correct_unmask(answers: Answers) -> Tensor | None:
    """The factor of gaps for the right word: rises with the reward; for rewards below 1, falls with its probability."""
    reward = answers.options.reward_correct_unmask
    return None if reward == 1 else answers.where(UNMASK, _penalty(reward, answers.right))


def state_dependent(answers: Answers) -> Tensor | None:
    """The factor of right words in a bad text: 1 - q s with the fraction q of wrong words and the doubt s."""
    if not answers.options.state_dependent:
        return None
    wrong_B, right_B = ((answers.kind_BL == kind).sum(dim=1) for kind in (REMASK, IDENTITY))
    q_B1 = (wrong_B / (wrong_B + right_B).clamp(min=1)).unsqueeze(1)
    return answers.where(IDENTITY, 1 - q_B1 * answers.special)


def unmask_rate(answers: Answers) -> Tensor | None:
    """The factor of gaps for wrong attempts: rises with the attempted fraction of the text's gaps over the target."""
    target = answers.options.target_unmask_rate
    if target is None:
        return None
    missing_BL = answers.kind_BL == UNMASK
    attempted_B = ((1 - answers.special) * missing_BL).sum(dim=1) / missing_BL.sum(dim=1).clamp(min=1)
    wrong_BL = (1 - answers.special - answers.right).clamp(min=0)
    return answers.where(UNMASK, 1 + (attempted_B / target - 1).unsqueeze(1) * wrong_BL)


def peaked_mistake(answers: Answers) -> Tensor | None:
    """The factor of gaps for peaked mistakes: 1 + λ (log V - H) / log V, H the entropy of the wrong probability."""
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
"""Each returns its factor, [B, L], or None where its option has no effect. Their order does not matter."""


def answer_weights(answers: Answers) -> Tensor | None:
    """The product of all terms that depend on the network's answers, [B, L]; None if none applies."""
    product: Tensor | None = None
    for term in ANSWER_TERMS:
        factor_BL = term(answers)
        if factor_BL is not None:
            product = factor_BL if product is None else product * factor_BL
    return product
