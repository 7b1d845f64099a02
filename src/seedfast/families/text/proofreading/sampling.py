"""Going back over one's own text: which words are doubted, hidden and written anew.

Each evaluation of the network does two jobs at once: it fills what is open, and it doubts what was already written. So
a pass over the text costs one evaluation, as a step of filling does, and what it sees, gaps among words of which some
are wrong, is what it was trained on. The last evaluation only fills.
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
from seedfast.families.text.unmask_sampler import MaskedRequest, Page
from seedfast.keys import Draws

Remask = Literal["cosine", "linear", "constant", "threshold", "sampled"]
_SURE = 0.5
_RATE = 0.3
_THRESHOLDS = (0.01, 0.5, 0.5, 0.5, 0.5, 0.65, 0.75, 0.98)


@dataclass(frozen=True, kw_only=True)
class ProofreadingRequest(MaskedRequest):
    """What is wanted of a proofreading model: a draft in --steps, then --passes over it."""

    passes: int | None = None
    """How often doubted words are hidden and written anew (default 0; for `threshold` as many as thresholds)."""
    remask: Remask | None = None
    """Which words are hidden: the most doubted ones, fewer in each pass (`cosine`, the default, or `linear`) or always
    as many (`constant`); those that are right with too small a probability (`threshold`); or each with the probability
    of its doubt, gaps being kept with theirs (`sampled`)."""
    remask_rate: float | None = None
    """For cosine, linear and constant: the part of the text that the first pass hides (default 0.3)."""
    thresholds: tuple[float, ...] = ()
    """For `threshold`: the least probability of being right that a word needs to stay, for each pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes is not None and self.passes < 0:
            raise UserError(f"passes must not be negative (they are {self.passes}).")
        if not self.rounds:
            for name in ("remask", "remask_rate"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name.replace('_', '-')} is about passes over the text; say how many --passes.")
        if self.thresholds and self.remask != "threshold":
            raise UserError("--thresholds belong to --remask threshold.")
        if self.thresholds and self.passes not in (None, len(self.thresholds)):
            raise UserError(f"There are {len(self.thresholds)} thresholds for {self.passes} passes.")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise UserError(f"thresholds are probabilities in [0, 1], not {self.thresholds}.")
        if self.remask_rate is not None:
            if self.remask in ("threshold", "sampled"):
                raise UserError(f"--remask-rate has no meaning for --remask {self.remask}.")
            if not 0 < self.remask_rate <= 1:
                raise UserError(f"remask-rate must lie in (0, 1], not {self.remask_rate}.")

    @property
    def rounds(self) -> int:
        """How many passes there are."""
        if self.passes is None and self.remask == "threshold":
            return len(self.thresholds or _THRESHOLDS)
        return self.passes or 0

    def rate(self, number: int) -> float:
        """The part of the text that pass `number` (0, 1, …) hides; never none, or the pass would be for nothing."""
        progress = number / self.rounds
        start = _RATE if self.remask_rate is None else self.remask_rate
        match self.remask or "cosine":
            case "cosine":
                return start * 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return start * (1 - progress)
        return start

    def threshold(self, number: int) -> float:
        """The least probability of being right in pass `number`: as given, or the usual ones spread over the passes."""
        if self.thresholds:
            return self.thresholds[number]
        return _THRESHOLDS[number * len(_THRESHOLDS) // self.rounds]


def doubted(before: Page, doubt_BL: Tensor, request: ProofreadingRequest, number: int, draws: Draws) -> Tensor:
    """Which positions pass `number` hides, bool [B, L]. doubt_BL: the probability of a special answer."""
    if request.remask == "sampled":
        # Of a gap it is the probability that nothing is known yet, so that it stays one.
        return before.writable_BL & (draws.uniform("doubt", doubt_BL.shape[1], dtype=torch.float64) < doubt_BL)
    if request.remask == "threshold":
        return before.written & (1 - doubt_BL < request.threshold(number))
    count_B = (before.writable_BL.sum(dim=1) * request.rate(number)).long()
    return first(-doubt_BL, before.written, count_B)


def moved(before: Page, after: Page, q_BLV: Tensor, symbols: Symbols) -> Page:
    """Take out a superfluous word and open a gap where one is missing: one such pair in each stretch of own text.

    Both have to be likely, and what lies between them moves by one place, so lengths stay and given words do not move.
    """
    tokens, is_open = after.tokens_BL.tolist(), after.open_BL.tolist()
    delete, insert = q_BLV[..., symbols.delete].tolist(), q_BLV[..., symbols.insert].tolist()
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
    return Page(torch.tensor(tokens, device=device), torch.tensor(is_open, device=device), after.writable_BL)


def stretches(writable: list[bool]) -> list[tuple[int, int]]:
    """Where stretches of writable positions start and stop."""
    found, position = [], 0
    for is_writable, group in groupby(writable):
        size = len(list(group))
        if is_writable:
            found.append((position, position + size))
        position += size
    return found
