"""Corruption: which words of a text are masked and which are wrong, and the target of each position.

A text of n scored tokens loses a fraction of them to [MASK]: the target there is the word ("unmask"). Another fraction
is replaced by wrong words: the target there is a special answer ("re-mask"). All others must be left alone
("identity"). Everything is drawn by the example's own key and computed for the whole batch at once.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.positions import at_random, in_spans, sticky, two_at_random
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.edits import Edits, choose_edits, interleave
from seedfast.keys import Draws
from seedfast.options import AtLeast, Between, Example, check

NOTHING, UNMASK, REMASK, IDENTITY = range(4)
"""The kinds of positions by their targets: none, a word at a gap, a special answer, the word that is there."""

Version = Literal["mask", "mask-wrong", "edit"]


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How texts are corrupted."""

    rates: Literal["total", "independent"] = "total"
    """`total`: the corrupted fraction is uniform, and a random part of it is replaced; `independent`: the masked
    fraction is uniform, and the replaced fraction is uniform in the rest."""
    guaranteed_correct: Annotated[float, Between(0, 1, open_high=True)] = 0.01
    """The fraction of a text that is never corrupted."""
    replaced: Ramp = field(default=Ramp(start=0.0, end=1.0, steps=600))
    """The largest fraction of the corruption that is replaced words (or edits) instead of [MASK]."""
    sticky: Annotated[float, Between(0, 1)] = 0.0
    """The fraction of texts whose masks cluster."""
    spans: Annotated[float, Between(0, 1)] = 0.0
    """The fraction of texts that are masked in whole spans."""
    bert: bool = False
    """Show 80 % of the masked positions as [MASK], 10 % as a random word, 10 % as they are (Devlin et al. 2019)."""
    mixture: Annotated[tuple[float, float, float], Example((0.0, 0.5, 0.5))] = (1.0, 0.0, 0.0)
    """Relative frequencies of the inputs at replaced positions: a random word, [MASK], a word from elsewhere in the
    window."""
    keep_multiplier: Annotated[float, AtLeast(0), Example(100.0)] = 0.0
    """How much likelier than each other word a replaced position keeps its own, and so is right; 0: never."""
    edits: Annotated[
        tuple[float, float, float] | None, Example((0.2, 0.4, 0.4), **{"run.objective.version": "edit"})
    ] = None
    """For the version `edit`: relative frequencies of replaced, missing and superfluous words (default 0.5, 0.25,
    0.25)."""

    def __post_init__(self) -> None:
        check(self, "objective.corruption.")
        if self.sticky + self.spans > 1:
            raise UserError(
                f"objective.corruption.sticky ({self.sticky}) and spans ({self.spans}) are fractions of all texts: "
                "their sum cannot exceed 1."
            )
        if not all(0 <= value <= 1 for value in self.replaced.values):
            raise UserError(f"objective.corruption.replaced must be in [0, 1], not {self.replaced.values}.")
        for key, parts in (("mixture", self.mixture), ("edits", self.edits)):
            if parts is not None and (min(parts) < 0 or sum(parts) == 0):
                raise UserError(f"objective.corruption.{key} are relative frequencies, so they cannot be {parts}.")


@dataclass(frozen=True)
class Symbols:
    """The special symbols: their ids follow those of the words.

    [MASK] is an input: "unknown". The others are answers only: this word is wrong, a word is missing after this one,
    this word is superfluous. In the version `mask`, [MASK] is an answer too, instead of [WRONG].
    """

    words: int
    version: Version

    @property
    def answers(self) -> int:
        """The number of symbols that the network may answer with: words, then special answers."""
        return self.words + (3 if self.version == "edit" else 1)

    @property
    def inputs(self) -> int:
        """The number of input symbols."""
        return self.mask + 1

    @property
    def mask(self) -> int:
        """The id of [MASK]."""
        return self.words if self.version == "mask" else self.answers

    @property
    def wrong(self) -> int:
        """The id of [WRONG]; in the version `mask`, of [MASK]."""
        return self.words

    @property
    def insert(self) -> int:
        """The id of [INSERT], in the version `edit`."""
        return self.words + 1

    @property
    def delete(self) -> int:
        """The id of [DELETE], in the version `edit`."""
        return self.words + 2

    @property
    def names(self) -> dict[int, str]:
        """The name of each special symbol, by its id."""
        answers = ("wrong", "insert", "delete")[: self.answers - self.words]
        return {**dict(enumerate(answers, start=self.words)), self.mask: "mask"}


@dataclass(frozen=True)
class Corrupted:
    """A batch of corrupted texts: the input, the right answer and the kind (UNMASK …) of each position.

    source_BL: the position in the original text that each one comes from. real_BL: false where an edited text is
    padded. Both are None without edits.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    kind_BL: Tensor
    source_BL: Tensor | None = None
    real_BL: Tensor | None = None


def corrupt(tokens_BL: Tensor, scored_BL: Tensor, options: Corruption, symbols: Symbols, draws: Draws) -> Corrupted:
    """Corrupt the scored tokens of each text, with every ramp of the options at its end."""
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
    # A superfluous word differs from the one before it: of two equal words, neither is the superfluous one.
    added_BL = (inputs_BL + 1 + draws.randint("added", length, high=symbols.words - 1)) % symbols.words
    columns = interleave(
        edits,
        inputs=(inputs_BL, added_BL),
        targets=(targets_BL, torch.full_like(tokens_BL, symbols.delete)),
        kinds=(kind_BL, torch.full_like(kind_BL, REMASK)),
    )
    return Corrupted(*columns)


def counts(count_B: Tensor, options: Corruption, draws: Draws) -> tuple[Tensor, Tensor]:
    """The numbers of masked and of wrong tokens among each text's scored tokens, int64 [B] each.

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
    """The masked positions (at random, in clusters or in spans, by a draw for each text) and the wrong ones."""
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
    """The input of each replaced position, never its own word, and the positions whose input is [MASK] instead.

    Words from elsewhere come from the same window, rotated by a random distance, because an example may not depend on
    the others in its micro-batch.
    """
    random, mask, elsewhere = (part / sum(options.mixture) for part in options.mixture)
    length = tokens_BL.shape[1]
    if random == 1:
        return other_BL, None
    u_BL = draws.uniform("mixture", length, dtype=torch.float64)
    shift_B1 = 1 + draws.randint("shift", 1, high=max(1, length - 1))
    rotated_BL = tokens_BL.gather(1, (torch.arange(length) + shift_B1) % length)
    borrowed_BL = torch.where(rotated_BL == tokens_BL, other_BL, rotated_BL)
    shows_BL = torch.where(u_BL < elsewhere, borrowed_BL, other_BL)
    return shows_BL, (u_BL >= elsewhere) & (u_BL < elsewhere + mask)
