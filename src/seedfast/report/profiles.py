"""Profiles: what a validation finds along an axis, such as the error at each noise level, and how it has changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seedfast.families.profile import Profile
from seedfast.report.format import weights_named
from seedfast.report.history import Floats, History
from seedfast.report.theme import MARKERS, Theme, figure, legend, logarithmic, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EARLIER = 4  # validations before the newest that are drawn


@dataclass(frozen=True)
class _Found:
    """The values of a profile for one kind of weights: at steps V, at rising places P."""

    weights: str
    places_P: Floats
    steps_V: Floats
    values_VP: Floats


def draw(history: History, profiles: Mapping[str, Profile], theme: Theme) -> "Figure | None":
    """A panel for each profile that has been measured; None if there is none."""
    found = {title: _found(history, profile) for title, profile in profiles.items()}
    shown = [title for title, kinds in found.items() if kinds]
    if not shown:
        return None
    columns = min(2, len(shown))
    page, panels = figure(theme, shown, height=4.2 * -(-len(shown) // columns), columns=columns)
    for axes, title in zip(panels, shown, strict=True):
        _panel(axes, profiles[title], found[title], theme)
    return page


def _found(history: History, profile: Profile) -> list[_Found]:
    """What validations have found, for each kind of weights. A point that one of them lacks is NaN."""
    names = sorted(profile.points, key=lambda name: profile.points[name])
    kinds = []
    for weights, losses in history.validation.items():
        values_VP = np.full((len(losses), len(names)), np.nan)
        for place, name in enumerate(names):
            if track := history.diagnostics.get(name, {}).get(weights):
                values_VP[np.searchsorted(losses.steps, track.steps), place] = track.values
        measured_V = np.isfinite(values_VP).any(axis=1)
        if measured_V.any():
            places_P = np.array([profile.points[name] for name in names])
            kinds.append(_Found(weights, places_P, losses.steps[measured_V], values_VP[measured_V]))
    return kinds


def _panel(axes: "Axes", profile: Profile, kinds: list[_Found], theme: Theme) -> None:
    """The newest validation of each kind of weights; of the last kind (the averaged ones) also earlier ones."""
    values = np.concatenate([kind.values_VP.ravel() for kind in kinds])
    low, high = np.nanmin(values), np.nanmax(values)
    if low > 0 and high > 8 * low and not profile.identity:
        logarithmic(axes, low, high, theme)
    if profile.identity:
        ends = [min(profile.points.values()), max(profile.points.values())]
        axes.plot(ends, ends, color=theme.faint, linewidth=1, dashes=(5, 3), label="as it should be")
    before = kinds[-1]
    chosen = _spread(len(before.steps_V) - 1)
    for rank, number in enumerate(chosen, start=1):
        _line(
            axes, before, number, theme, linewidth=1.1, alpha=0.2 + 0.4 * rank / len(chosen), marker="", zorder=2,
            label=f"step {before.steps_V[number]:,.0f}",
        )  # fmt: skip
    for kind in kinds:
        _line(
            axes, kind, -1, theme, linewidth=1.9, marker=MARKERS.get(kind.weights, "D"), markersize=4.5,
            markerfacecolor=theme.paper if kind.weights == "raw" else None,
            label=f"step {kind.steps_V[-1]:,.0f}, {weights_named(kind.weights)}",
        )  # fmt: skip
    axes.set_xlabel(printable(profile.axis), parse_math=False)
    legend(axes, theme, place="best")


def _spread(count: int) -> list[int]:
    """Some of the numbers 0 … count-1, closer where validations differ more: at the beginning."""
    return sorted({round(number) - 1 for number in np.geomspace(1, count, min(count, _EARLIER))}) if count > 0 else []


def _line(axes: "Axes", found: _Found, number: int, theme: Theme, **style: object) -> None:
    known_P = np.isfinite(found.values_VP[number])
    axes.plot(found.places_P[known_P], found.values_VP[number][known_P], color=theme.of(found.weights), **style)  # type: ignore[arg-type]
