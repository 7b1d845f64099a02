"""The curves of a measure: diagnostics of a validation along an axis, such as the error at each noise level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedfast.families.measure import Curve
from seedfast.report.format import weights_name
from seedfast.report.history import Floats, History
from seedfast.report.theme import MARKERS, Theme, drawable, figure, legend, logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EARLIER = 4  # validations drawn besides the newest


@dataclass(frozen=True)
class _Values:
    """The values of a curve for one kind of weights: at V validations (their steps) and P points in rising order."""

    weights: str
    points_P: Floats
    steps_V: Floats
    values_VP: Floats


def draw(history: History, curves: Mapping[str, Curve], theme: Theme) -> "Figure | None":
    """A panel for each curve that has been measured; None if there is none."""
    measured = {title: _values(history, curve) for title, curve in curves.items()}
    shown = [title for title, kinds in measured.items() if kinds]
    if not shown:
        return None
    columns = min(2, len(shown))
    page, panels = figure(theme, shown, height=4.2 * -(-len(shown) // columns), columns=columns)
    for axes, title in zip(panels, shown, strict=True):
        _panel(axes, curves[title], measured[title], theme)
    return page


def _values(history: History, curve: Curve) -> list[_Values]:
    """The measured values for each kind of weights. A point that a validation lacks is NaN."""
    names = sorted(curve.points, key=lambda name: curve.points[name])
    kinds = []
    for weights, losses in history.validation.items():
        values_VP = np.full((len(losses), len(names)), np.nan)
        for point, name in enumerate(names):
            if track := history.diagnostics.get(name, {}).get(weights):
                values_VP[np.searchsorted(losses.steps, track.steps), point] = track.values
        measured_V = np.isfinite(values_VP).any(axis=1)
        if measured_V.any():
            points_P = np.array([curve.points[name] for name in names])
            kinds.append(_Values(weights, points_P, losses.steps[measured_V], values_VP[measured_V]))
    return kinds


def _panel(axes: "Axes", curve: Curve, kinds: list[_Values], theme: Theme) -> None:
    """The newest validation of each kind of weights, and earlier ones of the last kind (the averaged weights)."""
    values = np.concatenate([kind.values_VP.ravel() for kind in kinds])
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and high > 8 * low and not curve.identity:
        logarithmic(axes, low, high, theme)
    if curve.identity:
        ends = [min(curve.points.values()), max(curve.points.values())]
        axes.plot(ends, ends, color=theme.faint, linewidth=1, dashes=(5, 3), label="perfect model")
    last = kinds[-1]
    chosen = _spread(len(last.steps_V) - 1)
    for rank, number in enumerate(chosen, start=1):
        _line(
            axes, last, number, theme, linewidth=1.1, alpha=0.2 + 0.4 * rank / len(chosen), marker="", zorder=2,
            label=f"step {last.steps_V[number]:,.0f}",
        )  # fmt: skip
    for kind in kinds:
        _line(
            axes, kind, -1, theme, linewidth=1.9, marker=MARKERS.get(kind.weights, "D"), markersize=4.5,
            markerfacecolor=theme.paper if kind.weights == "raw" else None,
            label=f"step {kind.steps_V[-1]:,.0f}, {weights_name(kind.weights)}",
        )  # fmt: skip
    axes.set_xlabel(drawable(curve.axis), parse_math=False)
    legend(axes, theme, place="best")


def _spread(count: int) -> list[int]:
    """Some of the numbers 0 … count-1, denser at the beginning, where validations differ more."""
    return sorted({round(number) - 1 for number in np.geomspace(1, count, min(count, _EARLIER))}) if count > 0 else []


def _line(axes: "Axes", kind: _Values, number: int, theme: Theme, **style: object) -> None:
    known_P = np.isfinite(kind.values_VP[number])
    axes.plot(kind.points_P[known_P], kind.values_VP[number][known_P], color=theme.of(kind.weights), **style)  # type: ignore[arg-type]
