"""The difference of two models on the same bytes, with a standard error of its own.

What makes a text hard makes it hard for both models, so the difference varies far less from part to part than either
value: its error comes from the differences of the parts, never from the errors of the values. The parts are

    windows       where both models are scored on the same windows, which are independent: images, answers of chats
    blocks        consecutive parts of a text (`loop/standard_error.py`): blocks of windows where both models are scored
                  on the same windows, and otherwise of bytes, between places where the edges of two windows are near
                  each other
    independent   where neither is possible (whole examples, packed differently): the root of the sum of both squared
                  errors, which is too large

A window that crosses the end of a block of bytes is shared out by its bytes. The difference itself does not depend on
that, since every byte is counted once; only its error does, by the small part of a block that lies at its ends.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from seedfast.data.dataset import Integers
from seedfast.loop import standard_error
from seedfast.loop.standard_error import Floats, ratio_of_sums

Parts = Literal["windows", "blocks", "independent"]


@dataclass(frozen=True)
class Cut:
    """How a split is cut into windows.

    sizes_E: bytes that each window is scored on (1 for an image). documents_E: the document of each, where they follow
    each other in the bytes; None where they are independent. contents: what tells those of equal sizes apart.
    """

    sizes_E: Integers
    documents_E: Integers | None = None
    contents: bytes = b""

    @cached_property
    def identity(self) -> str:
        """Equal for the same windows of the same bytes."""
        return hashlib.sha256(self.sizes_E.astype("<i8").tobytes() + self.contents).hexdigest()


@dataclass(frozen=True)
class Scored:
    """The totals of windows, such as their nats, and the number of each in the split."""

    totals_N: Floats
    examples_N: Integers
    cut: Cut

    @cached_property
    def is_whole(self) -> bool:
        """Whether every window of the split is scored, in order."""
        return np.array_equal(self.examples_N, np.arange(len(self.cut.sizes_E)))


@dataclass(frozen=True)
class Difference:
    """One model minus the other, per byte, its standard error, and the parts that the error is taken over."""

    value: float
    standard_error: float
    parts: Parts
    count: int


def difference(one: Scored, other: Scored) -> Difference | None:
    """one - other over what both are scored on, in the unit of the totals per byte; None where they cannot be paired.

    Windows that both have are paired; windows that differ only where both models are scored on all bytes.
    """
    if one.cut.identity == other.cut.identity:
        both_N, left, right = np.intersect1d(one.examples_N, other.examples_N, return_indices=True)
        parts = one.totals_N[left] - other.totals_N[right]
        documents = one.cut.documents_E
        of_both = None if documents is None else documents[both_N]
        return _difference(parts, one.cut.sizes_E[both_N].astype(np.float64), of_both)
    if not (one.is_whole and other.is_whole) or one.cut.documents_E is None or other.cut.documents_E is None:
        return None
    if one.cut.sizes_E.sum() != other.cut.sizes_E.sum():
        return None
    bounds = blocks(one.cut, other.cut)
    parts = shared_out(one.totals_N, one.cut.sizes_E, bounds) - shared_out(other.totals_N, other.cut.sizes_E, bounds)
    found = _difference(parts, np.diff(bounds))
    return found and replace(found, parts="blocks")


def independent(one: tuple[float, float], other: tuple[float, float]) -> Difference:
    """The difference of two values with their standard errors, as if they had been measured on different data."""
    return Difference(one[0] - other[0], math.hypot(one[1], other[1]), "independent", 0)


def blocks(one: Cut, other: Cut) -> Floats:
    """The bounds in bytes of consecutive blocks of the same ordered windows' text, cut in two ways.

    As many as the cut with fewer windows has; each bound is an edge of that cut, and of those nearby the one that is
    nearest to an edge of the other, at the end of a document if there is one.
    """
    coarse, fine = sorted((one, other), key=lambda each: len(each.sizes_E))
    assert coarse.documents_E is not None
    edges, others = np.cumsum(coarse.sizes_E), np.cumsum(fine.sizes_E)
    after = np.searchsorted(others, edges).clip(max=len(others) - 1)
    misses = np.minimum(abs(others[after] - edges), abs(edges - others[(after - 1).clip(min=0)]))
    is_cut = np.append(coarse.documents_E[1:] == coarse.documents_E[:-1], False)
    return standard_error.cut(edges, misses + is_cut * edges[-1], standard_error.block_count(len(edges)))


def shared_out(totals_E: Floats, sizes_E: Integers, bounds: Floats) -> Floats:
    """The total between each two bounds; a window that crosses one is shared out by its bytes.

    A window without bytes, such as a lone end-of-text, belongs to the part that it lies in.
    """
    edges = np.concatenate([[0], np.cumsum(sizes_E)])
    full_E = sizes_E > 0
    known = np.concatenate([[0], np.cumsum(sizes_E[full_E])])
    summed = np.concatenate([[0.0], np.cumsum(totals_E[full_E])])
    parts: Floats = np.diff(np.interp(bounds, known, summed))
    where = np.searchsorted(bounds, edges[:-1][~full_E], side="right") - 1
    np.add.at(parts, where.clip(0, len(parts) - 1), totals_E[~full_E])
    return parts


def _difference(parts: Floats, sizes: Floats, documents: Integers | None = None) -> Difference | None:
    if len(parts) < 2 or not sizes.sum():
        return None
    value, error, count = ratio_of_sums(torch.from_numpy(parts), torch.from_numpy(sizes), documents)
    return Difference(value, error, "windows" if count is None else "blocks", count or len(parts))
