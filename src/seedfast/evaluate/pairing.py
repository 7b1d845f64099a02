"""The difference of two models on the same bytes, with a standard error of its own.

What makes a text hard makes it hard for both models, so the difference varies far less from part to part than either
value: its error comes from the differences of the parts, never from the errors of the values. The parts are

    windows       where both models are scored on the same windows: the same tokenizer and context
    blocks        where their windows differ: consecutive parts of the bytes, each as long as several windows, between
                  places where the edges of two windows are near each other
    independent   where neither is possible (whole examples, packed differently): the root of the sum of both squared
                  errors, which is too large

A window that crosses the boundary of a block is shared out by its bytes. The difference itself does not depend on that,
since every byte is counted once; only its error does, by the small part of a block that lies at its ends.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from seedfast.loop.validate import ratio_of_sums

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Parts = Literal["windows", "blocks", "independent"]

_WINDOWS_IN_A_BLOCK = 8
_FEWEST_BLOCKS = 20


@dataclass(frozen=True)
class Cut:
    """How a split is cut into windows.

    sizes_E: bytes that each window is scored on (1 for an image). is_ordered: whether the windows follow each other in
    the bytes. contents: what tells windows of equal sizes apart, where they do not.
    """

    sizes_E: Integers
    is_ordered: bool = True
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
        return _difference(parts, one.cut.sizes_E[both_N].astype(np.float64), "windows")
    if not (one.is_whole and other.is_whole and one.cut.is_ordered and other.cut.is_ordered):
        return None
    sizes = (one.cut.sizes_E, other.cut.sizes_E)
    if sizes[0].sum() != sizes[1].sum():
        return None
    bounds = blocks(*sizes)
    parts = shared_out(one.totals_N, sizes[0], bounds) - shared_out(other.totals_N, sizes[1], bounds)
    return _difference(parts, np.diff(bounds), "blocks")


def independent(one: tuple[float, float], other: tuple[float, float]) -> Difference:
    """The difference of two values with their standard errors, as if they had been measured on different data."""
    return Difference(one[0] - other[0], math.hypot(one[1], other[1]), "independent", 0)


def blocks(one: Integers, other: Integers) -> Floats:
    """The bounds of consecutive blocks of the same bytes, from the sizes of the windows of two cuts.

    A block is about as long as several windows of the cut that has fewer; those of a short text are shorter, down to
    one window, so that there are enough of them. Each bound is an edge of that cut, and of those nearby the one that is
    nearest to an edge of the other.
    """
    coarse, fine = sorted((np.unique(np.cumsum(sizes)) for sizes in (one, other)), key=len)
    end, windows = float(coarse[-1]), len(coarse)
    count = max(windows // _WINDOWS_IN_A_BLOCK, min(_FEWEST_BLOCKS, windows), 1)
    after = np.searchsorted(fine, coarse).clip(max=len(fine) - 1)
    misses = np.minimum(abs(fine[after] - coarse), abs(coarse - fine[(after - 1).clip(min=0)]))
    bounds = [0.0]
    for number in range(1, count):
        near = abs(coarse - end * number / count) < end / count / 2
        if near.any():
            place = np.flatnonzero(near)[misses[near].argmin()]
            bounds.append(float(coarse[place]))
    return np.array([*bounds, end])


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


def _difference(parts: Floats, sizes: Floats, kind: Parts) -> Difference | None:
    if len(parts) < 2 or not sizes.sum():
        return None
    value, error = ratio_of_sums(torch.from_numpy(parts), torch.from_numpy(sizes))
    return Difference(value, error, kind, len(parts))
