"""Edits: texts in which words are missing or superfluous, so that positions move.

A fraction of the edits are replaced words, a fraction missing ones (the target of the word left of the hole is
[INSERT]) and a fraction superfluous ones (their target is [DELETE]). The numbers always sum to that of all edits.
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

    removed_BL: missing words. before_hole_BL: the words left of them. added_BL: words followed by a superfluous one.
    free_BL: scored words that are neither missing nor left of a missing one. replaced_B: number of replacements.
    """

    removed_BL: Tensor
    before_hole_BL: Tensor
    added_BL: Tensor
    free_BL: Tensor
    replaced_B: Tensor


def parts(edits_B: Tensor, shares: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of replacements, holes and superfluous words of each text; they sum to `edits_B` exactly."""
    total = sum(shares)
    holes_B = (edits_B * (shares[1] / total)).long()
    added_B = (edits_B * (shares[2] / total)).long()
    return edits_B - holes_B - added_B, holes_B, added_B


def choose_edits(scored_BL: Tensor, edits_B: Tensor, shares: Sequence[float], draws: Draws) -> Edits:
    """Choose holes and superfluous words.

    No two holes touch and each has an untouched word on its left: the positions of holes are all even or all odd, by
    a draw. The first word is never removed, because no word is left of it.
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
    """Close the holes and insert the superfluous words. Pairs: (values of the text, values of the word inserted after).

    Returns inputs, targets, kinds, sources (each [B, L]) and bool [B, L], false at padding: a text that became shorter
    is padded on its right with zeros, and one that became longer loses its end.
    """
    batch, length = edits.removed_BL.shape
    present_BS = torch.stack([~edits.removed_BL, edits.added_BL], dim=2).flatten(1)
    # Absent words and words beyond the end go to an extra column, which is cut off.
    place_BS = (present_BS.cumsum(dim=1) - 1).masked_fill(~present_BS, length).clamp(max=length)
    position_BL = torch.arange(length).expand(batch, -1)
    columns = [
        torch.zeros(batch, length + 1, dtype=torch.int64).scatter(1, place_BS, torch.stack(pair, dim=2).flatten(1))
        for pair in (inputs, targets, kinds, (position_BL, position_BL))
    ]
    moved = [column[:, :length] for column in columns]
    real_BL = torch.arange(length) < present_BS.sum(dim=1, keepdim=True)
    return moved[0], moved[1], moved[2], moved[3], real_BL
