"""Passes of proofreading: which words are doubted, masked and generated again.

Each evaluation of the network has two uses at once: it fills open positions, and it scores the words that are already
there. So a pass over the text costs one evaluation, like a step of unmasking, and its input, gaps among words of which
some are wrong, is what the network was trained on. The last evaluation only fills.
"""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.positions import first
from seedfast.families.text.proofreading.corruption import Symbols
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.families.text.unmask_step import MaskedPage
from seedfast.keys import Draws

Remask = Literal["cosine", "linear", "constant", "threshold", "sampled"]
DRAFT_STEPS, PASSES = 16, 48
"""The default decoding: 64 network evaluations, a quarter of them for the draft, whatever the length of the text.

64 characters of tinyshakespeare have 1.93 ± 0.04 nats each by a judge; unmasking alone in 64 evaluations 3.50 ± 0.06
(`bench/proofreading.py`, README; `bench/decoding.py` compares other divisions)."""
_SURE = 0.5
_RATE = 0.3
_THRESHOLDS = (0.01, 0.5, 0.5, 0.5, 0.5, 0.65, 0.75, 0.98)


@dataclass(frozen=True, kw_only=True)
class ProofreadingRequest(MaskedRequest):
    """A request to a proofreading model: a draft in --steps, then --passes over it, one network evaluation each."""

    steps: int | None = None
    """Parallel decoding steps of the draft (default 16; without passes one for each token)."""
    passes: int | None = None
    """How often doubted words are masked and generated again: 0 never (default 48; for `threshold` one for each
    threshold)."""
    remask: Remask | None = None
    """Which words are masked: the most doubted ones, fewer in each pass (`cosine`, the default, or `linear`) or always
    as many (`constant`); those whose probability of being right is too small (`threshold`); or each word with the
    probability of its doubt, gaps included (`sampled`)."""
    remask_rate: float | None = None
    """For cosine, linear and constant: the fraction of the text that the first pass masks (default 0.3)."""
    thresholds: tuple[float, ...] = ()
    """For `threshold`: the lowest probability of being right at which a word stays, for each pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes is not None and self.passes < 0:
            raise UserError(f"passes must be at least 0, not {self.passes}.")
        if not self.pass_count:
            for name in ("remask", "remask_rate"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name.replace('_', '-')} has no effect with --passes 0: leave one of them out.")
        if self.thresholds and self.remask != "threshold":
            raise UserError(f"--thresholds ({self.thresholds}) have no effect without --remask threshold.")
        if self.thresholds and self.passes not in (None, len(self.thresholds)):
            raise UserError(f"There are {len(self.thresholds)} thresholds for {self.passes} passes: give one for each.")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise UserError(f"thresholds are probabilities in [0, 1], not {self.thresholds}.")
        if self.remask_rate is not None:
            if self.remask in ("threshold", "sampled"):
                raise UserError(f"--remask-rate has no effect with --remask {self.remask}: leave it out.")
            if not 0 < self.remask_rate <= 1:
                raise UserError(f"remask-rate must be in (0, 1], not {self.remask_rate}.")

    @property
    def pass_count(self) -> int:
        """The number of passes."""
        if self.passes is not None:
            return self.passes
        return len(self.thresholds or _THRESHOLDS) if self.remask == "threshold" else PASSES

    @property
    def why_no_likelihood(self) -> str | None:
        """Passes write a token several times."""
        if not self.pass_count:
            return super().why_no_likelihood
        return (
            "Proofreading passes rewrite tokens, so the probability of a text is a sum over all its drafts: "
            "set --passes to 0."
        )

    @property
    def step_count(self) -> int | None:
        """The number of steps of the draft; None for one for each token."""
        return DRAFT_STEPS if self.steps is None and self.pass_count else self.steps

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words, with the number of network evaluations."""
        draft, passes = self.step_count, self.pass_count
        if not passes:
            return super().decoding
        rule = self.remask or "cosine"
        rate = "" if rule in ("threshold", "sampled") else f", rate {self.first_rate:g}"
        way = f"a draft in {draft} steps ({self.order} order) and {passes} proofreading passes ({rule}{rate})"
        return ", ".join([f"{way}: {self.evaluations(0)} network evaluations", *self.shaping])

    def evaluations(self, tokens: int) -> int:
        """One for each step of the draft, and for each pass."""
        return super().evaluations(tokens) + self.pass_count

    @property
    def first_rate(self) -> float:
        """The fraction of the text that the first pass masks."""
        return _RATE if self.remask_rate is None else self.remask_rate

    def rate(self, number: int) -> float:
        """The fraction of the text that pass `number` (0, 1, …) masks; always positive, or the pass would be wasted."""
        progress, start = number / self.pass_count, self.first_rate
        match self.remask or "cosine":
            case "cosine":
                return start * 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return start * (1 - progress)
        return start

    def threshold(self, number: int) -> float:
        """The lowest accepted probability of being right in pass `number`; the defaults are spread over the passes."""
        if self.thresholds:
            return self.thresholds[number]
        return _THRESHOLDS[number * len(_THRESHOLDS) // self.pass_count]


def doubted(before: MaskedPage, doubt_BL: Tensor, request: ProofreadingRequest, number: int, draws: Draws) -> Tensor:
    """The positions that pass `number` masks, bool [B, L]. doubt_BL: the probability of a special answer."""
    if request.remask == "sampled":
        # Of a gap it is the probability that its word is unknown; such a gap stays open.
        return before.writable_BL & (draws.uniform("doubt", doubt_BL.shape[1], dtype=torch.float64) < doubt_BL)
    if request.remask == "threshold":
        return before.written & (1 - doubt_BL < request.threshold(number))
    count_B = (before.writable_BL.sum(dim=1) * request.rate(number)).long()
    return first(-doubt_BL, before.written, count_B)


def moved(before: MaskedPage, after: MaskedPage, q_BLS: Tensor, symbols: Symbols) -> MaskedPage:
    """Remove a superfluous word and open a gap where one is missing: one such pair in each stretch of generated text.

    Both must be likely. The words between them move by one place, so lengths stay and fixed words do not move.
    q_BLS: the probabilities of the special answers.
    """
    tokens, is_open = after.tokens_BL.tolist(), after.open_BL.tolist()
    delete, insert = (q_BLS[..., answer - symbols.words].tolist() for answer in (symbols.delete, symbols.insert))
    visible = (~before.open_BL).tolist()
    for row, writable in enumerate(after.writable_BL.tolist()):
        for start, stop in stretches(writable):
            out = max(
                (i for i in range(start, stop) if visible[row][i] and not is_open[row][i]),
                key=delete[row].__getitem__,
                default=None,
            )
            behind = max(
                (j for j in range(max(0, start - 1), stop - 1) if visible[row][j]),
                key=insert[row].__getitem__,
                default=None,
            )
            if out is None or behind is None or min(delete[row][out], insert[row][behind]) <= _SURE:
                continue
            for values, new in ((tokens[row], symbols.mask), (is_open[row], True)):
                del values[out]
                values.insert(behind + 1 if behind < out else behind, new)
    device = after.tokens_BL.device
    return MaskedPage(torch.tensor(tokens, device=device), torch.tensor(is_open, device=device), after.writable_BL)


def stretches(writable: list[bool]) -> list[tuple[int, int]]:
    """The (start, stop) of each run of writable positions."""
    found, position = [], 0
    for is_writable, group in groupby(writable):
        size = len(list(group))
        if is_writable:
            found.append((position, position + size))
        position += size
    return found
