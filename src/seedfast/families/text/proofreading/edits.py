"""Edits: texts in which words are missing or superfluous, so that positions move.

Of so many edits a part is replaced words, a part missing ones (the word on the left of the hole is to answer
[INSERT]) and a part superfluous ones (to answer [DELETE]). The parts always sum to the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast.families.text.positions import at_random
from seedfast.keys import Draws


@dataclass(frozen=True)
class Edits:
    """Where texts are edited.

    removed_BL: words that are missing. before_hole_BL: the words on their left. added_BL: words behind which a
    superfluous one stands. free_BL: scored words that take no part in a hole. replaced_B: how many are to be replaced.
    """

    removed_BL: Tensor
    before_hole_BL: Tensor
    added_BL: Tensor
    free_BL: Tensor
    replaced_B: Tensor


def parts(edits_B: Tensor, shares: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """How many edits of each text are replacements, holes and superfluous words: they sum to `edits_B` exactly."""
    total = sum(shares)
    holes_B = (edits_B * (shares[1] / total)).long()
    added_B = (edits_B * (shares[2] / total)).long()
    return edits_B - holes_B - added_B, holes_B, added_B


def choose_edits(scored_BL: Tensor, edits_B: Tensor, shares: Sequence[float], draws: Draws) -> Edits:
    """Choose holes and superfluous words.

    No two holes touch and each has an untouched word on its left: the positions of holes are all even or all odd, by
    a draw. The first word is never removed, for nothing stands on its left.
    """
    replaced_B, holes_B, added_B = parts(edits_B, shares)
    position_L = torch.arange(scored_BL.shape[1])
    has_left_BL = torch.zeros_like(scored_BL)
    has_left_BL[:, 1:] = scored_BL[:, :-1]
    even_B1 = draws.randint("parity", 1, high=2)
    removed_BL = at_random("removed", scored_BL & has_left_BL & (position_L % 2 == even_B1), holes_B, draws)
    before_hole_BL = torch.zeros_like(removed_BL)
    before_hole_BL[:, :-1] = removed_BL[:, 1:]
    free_BL = scored_BL & ~removed_BL & ~before_hole_BL
    return Edits(removed_BL, before_hole_BL, at_random("behind", free_BL, added_B, draws), free_BL, replaced_B)


def interleave(
    edits: Edits, *, inputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], kinds: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Close the holes and let the superfluous words in; of each pair, the second stands behind the first.

    Returns inputs, targets, kinds, sources (each [B, L]) and which positions are real: a text that has become shorter
    is padded on its right with zeros, and one that has become longer loses its end.
    """
    batch, length = edits.removed_BL.shape
    present_BS = torch.stack([~edits.removed_BL, edits.added_BL], dim=2).flatten(1)
    # What is absent or beyond the end goes to a column that is cut off.
    place_BS = (present_BS.cumsum(dim=1) - 1).masked_fill(~present_BS, length).clamp(max=length)
    position_BL = torch.arange(length).expand(batch, -1)
    columns = [
        torch.zeros(batch, length + 1, dtype=torch.int64).scatter(1, place_BS, torch.stack(pair, dim=2).flatten(1))
        for pair in (inputs, targets, kinds, (position_BL, position_BL))
    ]
    moved = [column[:, :length] for column in columns]
    real_BL = torch.arange(length) < present_BS.sum(dim=1, keepdim=True)
    return moved[0], moved[1], moved[2], moved[3], real_BL
