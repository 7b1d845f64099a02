"""Corruption: what a text looks like when words are missing and others are wrong, and what is asked at each position.

A text of n scored tokens loses a share of them to [MASK]: the task there is to name the word ("unmask"). Another share
is replaced by wrong words: the task there is to say so ("re-mask"). All others must be left alone ("identity").
Everything is drawn by the example's own key and computed for the whole batch at once.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.positions import at_random, in_spans, sticky, two_at_random
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.edits import Edits, choose_edits, interleave
from seedfast.keys import Draws

NOTHING, UNMASK, REMASK, IDENTITY = range(4)
"""What is asked at a position."""

Version = Literal["mask", "mask-wrong", "edit"]


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How texts are corrupted."""

    rates: Literal["total", "independent"] = "total"
    """`total`: the corrupted share is uniform, and a random part of it is replaced; `independent`: the masked share
    is uniform, and the replaced share is uniform in what it leaves."""
    guaranteed_correct: float = 0.01
    """The share of a text that is never corrupted."""
    replaced: Ramp = field(default=Ramp(start=0.0, end=1.0, steps=600))
    """The largest part of the corruption that is replaced words (or edits) instead of [MASK]."""
    sticky: float = 0.0
    """The share of texts whose masks cluster."""
    spans: float = 0.0
    """The share of texts that are masked in whole spans."""
    bert: bool = False
    """Show 80 % of the masked positions as [MASK], 10 % as a random word, 10 % as they are (Devlin et al. 2019)."""
    mixture: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """The parts of the replaced positions that show a random word, [MASK], and a word from elsewhere in the window."""
    keep_multiplier: float = 0.0
    """How much likelier than each other word a replaced position keeps its own, and so is right; 0: never."""
    edits: tuple[float, float, float] | None = None
    """For the version `edit`: the parts of replaced, missing and superfluous words (default 0.5, 0.25, 0.25)."""

    def __post_init__(self) -> None:
        if not 0 <= self.guaranteed_correct < 1:
            raise UserError(
                f"objective.corruption.guaranteed_correct must lie in [0, 1), not {self.guaranteed_correct}."
            )
        for key in ("sticky", "spans"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"objective.corruption.{key} must lie in [0, 1], not {getattr(self, key)}.")
        if self.sticky + self.spans > 1:
            raise UserError(
                f"objective.corruption.sticky ({self.sticky}) and spans ({self.spans}) are shares of all texts: "
                "together they cannot exceed 1."
            )
        if not all(0 <= value <= 1 for value in self.replaced.values):
            raise UserError(f"objective.corruption.replaced is a share in [0, 1], not {self.replaced.values}.")
        if self.keep_multiplier < 0:
            raise UserError(
                f"objective.corruption.keep_multiplier must not be negative (it is {self.keep_multiplier})."
            )
        for key, parts in (("mixture", self.mixture), ("edits", self.edits)):
            if parts is not None and (min(parts) < 0 or sum(parts) == 0):
                raise UserError(f"objective.corruption.{key} are parts of a whole, so they cannot be {parts}.")


@dataclass(frozen=True)
class Symbols:
    """The special symbols: their ids come after the words'.

    [MASK] is an input: "unknown". The others are answers only: this word is wrong, a word is missing behind this one,
    this word is superfluous. Only in the version `mask` is [MASK] an answer too, in the place of [WRONG].
    """

    words: int
    version: Version

    @property
    def answers(self) -> int:
        """How many symbols the network may answer with: words, then special answers."""
        return self.words + (3 if self.version == "edit" else 1)

    @property
    def inputs(self) -> int:
        """How many symbols it may see."""
        return self.mask + 1

    @property
    def mask(self) -> int:
        """[MASK]."""
        return self.words if self.version == "mask" else self.answers

    @property
    def wrong(self) -> int:
        """[WRONG]."""
        return self.words

    @property
    def insert(self) -> int:
        """[INSERT], in the version `edit`."""
        return self.words + 1

    @property
    def delete(self) -> int:
        """[DELETE], in the version `edit`."""
        return self.words + 2

    @property
    def names(self) -> dict[int, str]:
        """What each special symbol is called, by its id."""
        answers = ("wrong", "insert", "delete")[: self.answers - self.words]
        return {**dict(enumerate(answers, start=self.words)), self.mask: "mask"}


@dataclass(frozen=True)
class Corrupted:
    """A batch of corrupted texts: what is seen, what is asked (UNMASK …), and the right answer at each position.

    source_BL: which position of the text each one comes from. real_BL: false where an edited text is padded.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    kind_BL: Tensor
    source_BL: Tensor | None = None
    real_BL: Tensor | None = None


def corrupt(tokens_BL: Tensor, scored_BL: Tensor, options: Corruption, symbols: Symbols, draws: Draws) -> Corrupted:
    """Corrupt the scored tokens of each text, at the end of the options' curriculum."""
    length = tokens_BL.shape[1]
    masked_B, wrong_B = counts(scored_BL.sum(dim=1), options, draws)
    edits: Edits | None = None
    free_BL = scored_BL
    if symbols.version == "edit":
        edits = choose_edits(scored_BL, wrong_B, options.edits or (0.5, 0.25, 0.25), draws)
        wrong_B, free_BL = edits.replaced_B, edits.free_BL
    masked_BL, replaced_BL = _choose(free_BL, masked_B, wrong_B, options, draws)
    other_BL = (tokens_BL + 1 + draws.randint("other", length, high=symbols.words - 1)) % symbols.words
    kind_BL = torch.where(scored_BL, IDENTITY, NOTHING)
    if options.keep_multiplier:
        weight = options.keep_multiplier
        keeps = draws.uniform("keep", length, dtype=torch.float64) < weight / (symbols.words - 1 + weight)
        replaced_BL = replaced_BL & ~keeps
    shows_BL, shows_mask_BL = _replacements(tokens_BL, other_BL, options, draws)
    if shows_mask_BL is not None:
        masked_BL, replaced_BL = masked_BL | (replaced_BL & shows_mask_BL), replaced_BL & ~shows_mask_BL
    inputs_BL = torch.where(replaced_BL, shows_BL, tokens_BL).masked_fill(masked_BL, symbols.mask)
    if options.bert:
        u_BL = draws.uniform("bert", length)
        inputs_BL = torch.where(masked_BL & (u_BL >= 0.8), other_BL, inputs_BL)
        inputs_BL = torch.where(masked_BL & (u_BL >= 0.9), tokens_BL, inputs_BL)
    targets_BL = tokens_BL.masked_fill(replaced_BL, symbols.wrong)
    kind_BL = kind_BL.masked_fill(masked_BL, UNMASK).masked_fill(replaced_BL, REMASK)
    if edits is None:
        return Corrupted(inputs_BL, targets_BL, kind_BL)
    targets_BL = targets_BL.masked_fill(edits.before_hole_BL, symbols.insert)
    kind_BL = kind_BL.masked_fill(edits.before_hole_BL, REMASK)
    # A superfluous word differs from the one that it stands behind: of two equal words, none is the superfluous one.
    added_BL = (inputs_BL + 1 + draws.randint("added", length, high=symbols.words - 1)) % symbols.words
    columns = interleave(
        edits,
        inputs=(inputs_BL, added_BL),
        targets=(targets_BL, torch.full_like(tokens_BL, symbols.delete)),
        kinds=(kind_BL, torch.full_like(kind_BL, REMASK)),
    )
    return Corrupted(*columns)


def counts(count_B: Tensor, options: Corruption, draws: Draws) -> tuple[Tensor, Tensor]:
    """How many of each text's scored tokens are masked and how many are wrong.

    The difficulty is stratified over the global batch, or over the draws of a validation example: a fixed grid.
    """
    limit, share = 1 - options.guaranteed_correct, options.replaced.end
    difficulty_B = draws.stratified("difficulty") * limit
    part_B = draws.uniform("part", 1, dtype=torch.float64)[:, 0] * share
    if options.rates == "total":
        wrong_B, masked_B = difficulty_B * part_B, difficulty_B * (1 - part_B)
    else:
        wrong_B, masked_B = (limit - difficulty_B) * part_B, difficulty_B
    return (masked_B * count_B).long(), (wrong_B * count_B).long()


def _choose(
    eligible_BL: Tensor, masked_B: Tensor, wrong_B: Tensor, options: Corruption, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Which positions are masked (at random, in clusters or in spans, as each text's draw says) and which are wrong."""
    masked_BL, replaced_BL = two_at_random("corrupted", eligible_BL, masked_B, wrong_B, draws)
    if options.sticky + options.spans == 0:
        return masked_BL, replaced_BL
    kind_B1 = draws.uniform("kind", 1, dtype=torch.float64)
    clustered_BL = sticky("sticky", eligible_BL, masked_B, draws)
    in_spans_BL = in_spans("spans", eligible_BL, masked_B, draws)
    masked_BL = torch.where(kind_B1 < options.sticky + options.spans, in_spans_BL, masked_BL)
    masked_BL = torch.where(kind_B1 < options.sticky, clustered_BL, masked_BL)
    return masked_BL, at_random("replaced", eligible_BL & ~masked_BL, wrong_B, draws)


def _replacements(
    tokens_BL: Tensor, other_BL: Tensor, options: Corruption, draws: Draws
) -> tuple[Tensor, Tensor | None]:
    """What each replaced position shows, never its own word, and where it shows [MASK] instead.

    Words from elsewhere come from the same window, turned by a random distance: what an example looks like may not
    depend on which others share its micro-batch.
    """
    random, mask, elsewhere = (part / sum(options.mixture) for part in options.mixture)
    length = tokens_BL.shape[1]
    if random == 1:
        return other_BL, None
    u_BL = draws.uniform("mixture", length, dtype=torch.float64)
    shift_B1 = 1 + draws.randint("shift", 1, high=max(1, length - 1))
    turned_BL = tokens_BL.gather(1, (torch.arange(length) + shift_B1) % length)
    borrowed_BL = torch.where(turned_BL == tokens_BL, other_BL, turned_BL)
    shows_BL = torch.where(u_BL < elsewhere, borrowed_BL, other_BL)
    return shows_BL, (u_BL >= elsewhere) & (u_BL < elsewhere + mask)
