"""From many noisy steps to a curve that can be drawn: buckets of steps, their range, and a smooth middle."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from seedfast.report.history import Floats

_SINGLE = 4000  # up to so many steps, each is drawn for itself
_BUCKETS = 1000  # above, they are drawn in so many buckets
_SPAN = 60  # a smoothing window reaches 1/60 of the run to either side


@dataclass(frozen=True)
class Curve:
    """A curve of at most a few thousand points.

    steps: the mean step of each bucket. low, high: the range of the values in it. smooth: the running middle.
    single: whether each bucket is one step, so that low and high are the step's own value.
    """

    steps: Floats
    low: Floats
    high: Floats
    smooth: Floats
    single: bool


def by_mean(steps: Floats, values: Floats, weights: Floats | None = None) -> Curve | None:
    """Smoothed by the running weighted mean, for a loss is a sum over a sum. None if no value is finite."""
    return _curve(steps, values, np.ones_like(values) if weights is None else weights, _mean)


def by_median(steps: Floats, values: Floats) -> Curve | None:
    """Smoothed by the running median: for what has outliers, as times and gradient norms have."""
    return _curve(steps, values, np.ones_like(values), _median)


def _mean(values: Floats, weights: Floats) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else float(values.mean())


def _median(values: Floats, _: Floats) -> float:
    return float(np.median(values))


Middle = Callable[[Floats, Floats], float]


def _curve(steps: Floats, values: Floats, weights: Floats, middle: Middle) -> Curve | None:
    finite = np.isfinite(values)
    if not finite.any():
        return None
    steps, values, weights = steps[finite], values[finite], weights[finite]
    count = len(values) if len(values) <= _SINGLE else _BUCKETS
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    spans = list(pairwise(edges))
    centres = np.array([middle(values[a:b], weights[a:b]) for a, b in spans])
    return Curve(
        steps=np.add.reduceat(steps, edges[:-1]) / np.diff(edges),
        low=np.minimum.reduceat(values, edges[:-1]),
        high=np.maximum.reduceat(values, edges[:-1]),
        smooth=_running(centres, np.add.reduceat(weights, edges[:-1]), middle),
        single=len(spans) == len(values),
    )


def _running(values: Floats, weights: Floats, middle: Middle) -> Floats:
    """The middle of a window around each point.

    Near the start the window shrinks on both sides, so that the steep first steps do not mix with what follows;
    near the end it loses only its later half, so that the curve's last value is smooth too.
    """
    count = len(values)
    reach = round(count / _SPAN)
    smooth = np.empty(count)
    for i in range(count):
        before = min(reach, i)
        after = min(reach, before + reach // 8)
        window = slice(i - before, i + after + 1)
        smooth[i] = middle(values[window], weights[window])
    return smooth
