"""The curves of a run: every number of its journal, kept in memory, smoothed, and reduced to what a screen can show."""

from array import array
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedfast.data.names import is_utf8
from seedfast.run_folder.journal import scalars
from seedfast.run_folder.tail import Tail

Floats = NDArray[np.float64]

_MOST_CURVES = 1000  # of a run; a journal with more names is damaged, or made to exhaust the memory
_LARGEST = 1e290  # no sum of the values of a curve up to this overflows, and neither does its axis in the page


class Curves:
    """The curves of one run. Each call reads what was appended to the journal."""

    def __init__(self, run_folder: Path) -> None:
        self._tail = Tail(run_folder)
        self._columns: dict[str, tuple[array[float], array[float]]] = {}
        self._lock = Lock()  # requests are answered by several threads
        self._version = 0

    def refreshed(self) -> int:
        """A number that grows whenever the journal has changed."""
        with self._lock:
            self._update()
            return self._version

    def names(self) -> list[str]:
        """The names of the curves, such as `training/loss`, sorted."""
        with self._lock:
            self._update()
            return sorted(self._columns)

    def curve(self, name: str, *, points: int, smoothing: float, first: float, last: float) -> dict[str, list[Any]]:
        """A curve between two steps, as at most `points` buckets of equally many values.

        Each bucket has its mean `step`, the range `low` to `high` of its values, and their smoothed mean `smooth`.
        smoothing: the share of the values, 0 … 1, that the window of the running mean has. Smoothing is computed before
        the values are put into buckets. Values that are not finite, or beyond 1e290, are left out.
        """
        with self._lock:
            self._update()
            steps, values = (np.array(column, dtype=np.float64) for column in self._columns.get(name, ((), ())))
        smooth = running_mean(values, smoothing)
        shown = (steps >= first) & (steps <= last)
        found = bucketed(steps[shown], values[shown], smooth[shown], points)
        return {key: [float(f"{value:.7g}") for value in column] for key, column in found.items()}

    def _update(self) -> None:
        is_cut, entries = self._tail.read()
        if is_cut:
            self._columns.clear()
        self._version += is_cut or bool(entries)
        for entry in entries:
            for name, value in _numbers(entry).items():
                if name not in self._columns and len(self._columns) >= _MOST_CURVES:
                    continue
                steps, values = self._columns.setdefault(name, (array("d"), array("d")))
                steps.append(float(entry["step"]))
                values.append(value)


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry that can be drawn, by their names; none of one that is nested too deeply."""
    try:
        found = {name: value for name, value in scalars(entry).items() if abs(value) <= _LARGEST and is_utf8(name)}
    except RecursionError:
        return {}
    return {name: float(value) for name, value in found.items()} if abs(entry["step"]) <= _LARGEST else {}


def running_mean(values: Floats, share: float) -> Floats:
    """The mean of a window around each value, which has this share of all values.

    Near the start the window shrinks on both sides, so that the steep first steps do not mix with later ones. Near the
    end only its later half shrinks, so that the last value is smooth too.
    """
    count = len(values)
    reach = round(share * count / 2)
    if not reach:
        return values
    places = np.arange(count)
    before = np.minimum(reach, places)
    after = np.minimum(before, count - 1 - places)
    # Every window gets the same width: those that shrink reach into zeros beside the values.
    beside = np.zeros(2 * reach)
    sums = _window_sums(np.concatenate([beside, values, beside]), 2 * reach + 1)
    means: Floats = sums[places + before] / (before + after + 1)
    return means


def _window_sums(values: Floats, width: int) -> Floats:
    """The sum of each `width` successive values, as one of windows whose widths are powers of two.

    A difference of two running totals would be faster, but one large value makes all totals after it inexact.
    """
    count = len(values) - width + 1
    sums, place = np.zeros(count), 0  # of the first `place` values of each window
    for power in range(width.bit_length()):
        if width >> power & 1:
            sums += values[place : place + count]
            place += 1 << power
        values = values[: -(1 << power)] + values[1 << power :]  # of windows that are twice as wide
    return sums


def bucketed(steps: Floats, values: Floats, smooth: Floats, points: int) -> dict[str, Floats]:
    """At most `points` buckets of equally many values: `step`, `low`, `high` and `smooth` of each."""
    count = min(len(values), points)
    if not count:
        return dict.fromkeys(("step", "low", "high", "smooth"), values[:0])
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    starts, sizes = edges[:-1], np.diff(edges)
    return {
        "step": np.add.reduceat(steps, starts) / sizes,
        "low": np.minimum.reduceat(values, starts),
        "high": np.maximum.reduceat(values, starts),
        "smooth": np.add.reduceat(smooth, starts) / sizes,
    }
