"""Smoothing: many noisy steps as a line that can be drawn, by buckets of steps, their range and a running centre."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from seedfast.report.history import Floats

_SINGLE = 4000  # up to this number of steps, each step is drawn
_BUCKETS = 1000  # number of buckets above it
_SPAN = 60  # a smoothing window reaches 1/60 of the run to either side


@dataclass(frozen=True)
class Smoothed:
    """A noisy quantity as at most a few thousand points.

    steps: mean step of each bucket. low, high: range of the values in it. smooth: running mean or median.
    single: whether each bucket is one step, so that low and high are the value of that step.
    """

    steps: Floats
    low: Floats
    high: Floats
    smooth: Floats
    single: bool


def by_mean(steps: Floats, values: Floats, weights: Floats | None = None) -> Smoothed | None:
    """Smooth by the running weighted mean, as a loss is a sum over a sum. None if no value is finite."""
    return _smooth(steps, values, np.ones_like(values) if weights is None else weights, _mean)


def by_median(steps: Floats, values: Floats) -> Smoothed | None:
    """Smooth by the running median, for quantities with outliers such as times and gradient norms."""
    return _smooth(steps, values, np.ones_like(values), _median)


def _mean(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float(values.mean())


def _median(values: Floats, _: Floats) -> float:
    return float(np.median(values))


Centre = Callable[[Floats, Floats], float]
"""The centre of values with these weights."""


def _smooth(steps: Floats, values: Floats, weights: Floats, centre: Centre) -> Smoothed | None:
    finite = np.isfinite(values)
    if not finite.any():
        return None
    steps, values, weights = steps[finite], values[finite], weights[finite]
    count = len(values) if len(values) <= _SINGLE else _BUCKETS
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    spans = list(pairwise(edges))
    centres = np.array([centre(values[a:b], weights[a:b]) for a, b in spans])
    return Smoothed(
        steps=np.add.reduceat(steps, edges[:-1]) / np.diff(edges),
        low=np.minimum.reduceat(values, edges[:-1]),
        high=np.maximum.reduceat(values, edges[:-1]),
        smooth=_running(centres, np.add.reduceat(weights, edges[:-1]), centre),
        single=len(spans) == len(values),
    )


def _running(values: Floats, weights: Floats, centre: Centre) -> Floats:
    """The centre of a window around each point.

    Near the start the window shrinks on both sides, so that the steep first steps do not mix with later ones. Near the
    end only its later half shrinks, so that the last value is smooth too.
    """
    count = len(values)
    reach = round(count / _SPAN)
    smooth = np.empty(count)
    for i in range(count):
        before = min(reach, i)
        after = min(reach, before + reach // 8)
        window = slice(i - before, i + after + 1)
        smooth[i] = centre(values[window], weights[window])
    return smooth
