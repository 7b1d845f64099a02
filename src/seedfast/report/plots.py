"""The plots of a run, each drawn for light and for dark pages.

Figures are made through matplotlib's objects: no pyplot, so nothing is global and nothing has to be closed.
What colours tell, shapes tell again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from seedfast.families.profile import Profile
from seedfast.report import curves, profiles
from seedfast.report.format import counted, measured, spaced, weights_named
from seedfast.report.history import History, Track
from seedfast.report.theme import MARKERS, Theme, figure, legend, logarithmic, png, steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 80  # validations drawn at most for each kind of weights
_PANELS = 24  # diagnostics drawn at most


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the plots show besides the journal.

    best: step, loss and standard error by kind of weights. profiles: which diagnostics are the points of one curve.
    """

    title: str
    clip: float | None
    best: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Profile] = field(default_factory=dict)


def draw(history: History, facts: Facts, theme: Theme) -> dict[str, bytes]:
    """PNG pictures by name ("loss", "profiles", "rate", …): those that have anything to show."""
    pages = {
        "loss": loss(history, facts, theme),
        "profiles": profiles.draw(history, facts.profiles, theme),
        "rate": rate(history, facts, theme),
        "throughput": throughput(history, facts, theme),
        "diagnostics": diagnostics(history, facts, theme),
    }
    return {name: png(page) for name, page in pages.items() if page is not None}


def loss(history: History, facts: Facts, theme: Theme) -> "Figure | None":
    """Training loss, each step and smoothed; validations with their standard errors; the best; skipped steps."""
    curve = curves.by_mean(history.loss.steps, history.loss.values, history.weight.values)
    if curve is None and not history.validation:
        return None
    page, (axes,) = figure(theme, [f"{facts.title} · loss"], height=4.6)
    if curve is not None:
        _draw_curve(axes, curve, theme.training, "training loss", "each step")
    for weights, track in history.validation.items():
        _draw_validation(axes, track, history.standard_error[weights], weights, facts, theme)
    axes.set_title(" · ".join(_notes(axes, history)), loc="right", fontsize=8.5, color=theme.faint)
    if len(history.skipped):
        at = _thin(history.skipped.steps, 500)
        axes.plot(
            at, np.full(len(at), 0.02), "|", transform=axes.get_xaxis_transform(), color=theme.skipped,
            markersize=9, label=f"skipped updates: {len(history.skipped):,}",
        )  # fmt: skip
    axes.set_ylabel("loss")
    steps(axes, history)
    for name, factor in list(history.units.items())[:1]:
        second = axes.secondary_yaxis("right", functions=(_times(factor), _times(1 / factor)))
        second.set_ylabel(spaced(name), color=theme.faint, fontsize=9, parse_math=False)
        second.tick_params(colors=theme.faint, labelsize=8.5, length=0)
        second.spines[:].set_visible(False)
    legend(axes, theme)
    return page


def rate(history: History, facts: Facts, theme: Theme) -> "Figure | None":
    """The learning rate, and the gradient norm before clipping."""
    if not len(history.lr):
        return None
    names = [f"{facts.title} · learning rate", "gradient norm, before clipping"]
    page, (upper, lower) = figure(theme, names, height=5.4)
    rates = curves.by_mean(history.lr.steps, history.lr.values)
    if rates is not None:
        upper.plot(rates.steps, rates.high, color=theme.training, linewidth=1.8, marker=_dot(rates))
        upper.set_ylim(0, float(rates.high.max()) * 1.08 or 1)
    upper.set_ylabel("learning rate")
    upper.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    norms = history.gradient_norm.values
    curve = curves.by_median(history.gradient_norm.steps, np.where(norms > 0, norms, np.nan))
    if curve is not None:
        logarithmic(lower, float(curve.low.min()), float(curve.high.max()), theme)
        _draw_curve(lower, curve, theme.training, "running median", "each step")
        if facts.clip is not None and curve.high.max() > facts.clip / 3:
            lower.axhline(
                facts.clip,
                color=theme.of("raw"),
                linewidth=1.2,
                dashes=(5, 3),
                label=f"clipped to {facts.clip:g}",
            )
        legend(lower, theme)
    lower.set_ylabel("norm")
    for axes in (upper, lower):
        steps(axes, history, named=axes is lower)
    return page


def throughput(history: History, facts: Facts, theme: Theme) -> "Figure | None":
    """The weight of each step over its seconds."""
    curve = curves.by_median(*history.throughput())
    if curve is None:
        return None
    page, (axes,) = figure(theme, [f"{facts.title} · throughput"], height=3.0)
    _draw_curve(axes, curve, theme.training, "running median", "each step")
    axes.set_ylim(0, max(float(np.quantile(curve.high, 0.98)), float(curve.smooth.max())) * 1.2)
    axes.set_ylabel("weight per second")
    axes.yaxis.set_major_formatter(lambda value, _: counted(value))
    steps(axes, history)
    legend(axes, theme, place="lower right")
    return page


def diagnostics(history: History, facts: Facts, theme: Theme) -> "Figure | None":
    """One panel for each diagnostic, in training and at validations; those named group/name share their group's."""
    panels = _panels(history, facts)
    if not panels:
        return None
    shown = list(panels)[:_PANELS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    page, places = figure(theme, shown, height=2.5 * rows, columns=columns)
    for axes, title in zip(places, shown, strict=True):
        named = axes in places[-columns:]
        if title in history.diagnostics:
            _draw_tracks(axes, history.diagnostics[title], theme)
        else:
            for name, tracks in panels[title].items():
                _draw_member(axes, name, tracks)
        steps(axes, history, named=named, ticks=3)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
        legend(axes, theme, place="best", size=7)
    return page


def _panels(history: History, facts: Facts) -> dict[str, dict[str, dict[str, Track]]]:
    """The diagnostics that have anything to show here, by the title of their panel and their own name in it."""
    elsewhere = {name for profile in facts.profiles.values() for name in profile.points}
    panels: dict[str, dict[str, dict[str, Track]]] = {}
    for name, tracks in sorted(history.diagnostics.items()):
        if name not in elsewhere and any(_finite(track) for track in tracks.values()):
            group, slash, member = name.partition("/")
            panels.setdefault(group if slash else name, {})[member if slash else name] = tracks
    return panels


def left_out(history: History, facts: Facts) -> int:
    """How many diagnostics are in the journal but, for want of room, in no panel."""
    return sum(len(members) for members in list(_panels(history, facts).values())[_PANELS:])


def _draw_tracks(axes: "Axes", tracks: Mapping[str, Track], theme: Theme) -> None:
    """One diagnostic: smoothed in training, point by point at validations."""
    for where, track in tracks.items():
        if where == "training":
            curve = curves.by_mean(track.steps, track.values)
            if curve is not None:
                _draw_curve(axes, curve, theme.training, "training", "")
            continue
        keep = _thin(np.flatnonzero(np.isfinite(track.values)), _POINTS)
        axes.plot(
            track.steps[keep], track.values[keep], color=theme.of(where), linewidth=1,
            marker=MARKERS.get(where, "D"), markersize=3.5 if len(keep) < 40 else 0,
            markerfacecolor=theme.paper if where == "raw" else None,
            label=f"validation, {weights_named(where)}",
        )  # fmt: skip


def _draw_member(axes: "Axes", name: str, tracks: Mapping[str, Track]) -> None:
    """One line of several in a panel: in training, or else at the validations of the last kind of weights."""
    track = tracks["training"] if "training" in tracks else list(tracks.values())[-1]
    keep = _thin(np.flatnonzero(np.isfinite(track.values)), 4 * _POINTS)
    axes.plot(track.steps[keep], track.values[keep], linewidth=1.3, marker="." if len(keep) < 40 else "", label=name)


def _draw_curve(axes: "Axes", curve: curves.Curve, colour: str, label: str, raw: str) -> None:
    """The steps themselves, faint, and the smooth curve through them."""
    if curve.single and np.array_equal(curve.low, curve.smooth):
        pass  # so few steps that nothing was smoothed
    elif curve.single:
        axes.plot(curve.steps, curve.low, color=colour, alpha=0.28, linewidth=0.8, label=raw)
    else:
        axes.fill_between(
            curve.steps,
            curve.low,
            curve.high,
            color=colour,
            alpha=0.22,
            linewidth=0,
            label=raw and f"{raw} (range)",
        )
    axes.plot(curve.steps, curve.smooth, color=colour, linewidth=1.8, marker=_dot(curve), markersize=4, label=label)


def _draw_validation(axes: "Axes", losses: Track, errors: Track, weights: str, facts: Facts, theme: Theme) -> None:
    """Points with bars of one standard error to either side, and a star at the best."""
    at, values, bars = losses.steps, losses.values, errors.values
    keep = np.flatnonzero(np.isfinite(values))
    if not len(keep):
        return
    keep = _thin(keep, _POINTS)
    colour, marker = theme.of(weights), MARKERS.get(weights, "D")
    best, label = facts.best.get(weights), f"validation, {weights_named(weights)}"
    if best is not None:
        label += f": best {measured(best['loss'], best['standard_error'])} at step {best['step']:,}"
    few = len(keep) < 60
    axes.errorbar(
        at[keep], values[keep], yerr=np.nan_to_num(bars[keep], posinf=0.0), label=label, color=colour, zorder=4,
        fmt=marker, markersize=4.5 if few else 3, markerfacecolor=theme.paper if weights == "raw" else colour,
        markeredgewidth=1.2, elinewidth=1.1, capsize=2.5 if few else 0, linestyle="-", linewidth=0.7,
    )  # fmt: skip
    if best is not None:
        axes.plot(
            [best["step"]], [best["loss"]], marker="*", markersize=15, color=colour, linestyle="none",
            markeredgecolor=theme.paper, markeredgewidth=1, zorder=5,
        )  # fmt: skip


def _notes(axes: "Axes", history: History) -> list[str]:
    """Set limits that the run's body fills; say what leaves them (as a rule the first steps) and what bars are."""
    training = history.loss.values[np.isfinite(history.loss.values)]
    tops, bottoms, notes = [], [], []
    if len(training):
        tops.append(float(np.quantile(training, 0.96) if len(training) >= 200 else training.max()))
        bottoms.append(float(np.quantile(training, 0.0005)))
    for weights, track in history.validation.items():
        finite = np.isfinite(track.values)
        if finite.any():
            bars = np.nan_to_num(history.standard_error[weights].values[finite])
            tops.append(float(np.quantile(track.values[finite] + bars, 0.9)))
            bottoms.append(float((track.values[finite] - bars).min()))
            notes = ["bars: ± 1 standard error", "★ best"]
    if tops:
        top, bottom = max(tops), min(bottoms)
        margin = 0.06 * (top - bottom) or 0.1 * abs(top) or 1.0
        axes.set_ylim(bottom - 1.5 * margin, top + margin)
        if len(training) and training.max() > top + margin:
            step = int(history.loss.steps[np.nanargmax(history.loss.values)])
            notes.insert(0, f"↑ {training.max():.4g} at step {step:,}")
    return notes


def _dot(curve: curves.Curve) -> str:
    """A marker where there are too few points to make a line."""
    return "o" if len(curve.steps) < 3 else ""


def _times(factor: float) -> Any:
    return lambda values: np.asarray(values) * factor


def _thin(values: Any, limit: int) -> Any:
    """At most `limit` of the values, evenly spread, the first and the last among them."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), limit)).round().astype(int))]


def _finite(track: Track) -> bool:
    return bool(np.isfinite(track.values).any())
