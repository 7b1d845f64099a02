"""The plots of a run, each drawn for light and for dark pages.

Figures are matplotlib objects without pyplot, so there is no global state and nothing to close.
Whatever differs in colour differs in shape too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from seedfast.families.measure import Measure
from seedfast.report import curves, smoothing
from seedfast.report.format import measured, quantity, spaced, weights_name
from seedfast.report.history import History, Track
from seedfast.report.theme import MARKERS, Theme, figure, legend, logarithmic, png, steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 80  # most validations drawn for each kind of weights
_PANELS = 24  # most diagnostics drawn
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class PlotContext:
    """What the plots show besides the journal.

    clip: largest norm of the gradient, None without clipping. best: step, loss and standard error by kind of weights.
    measure: the curves of the diagnostics.
    """

    title: str
    clip: float | None
    best: Mapping[str, Mapping[str, Any]]
    measure: Measure = field(default_factory=Measure)


def draw(history: History, context: PlotContext, theme: Theme) -> dict[str, bytes]:
    """PNG pictures by name ("loss", "curves", "rate", …), of the plots that are not empty."""
    pages = {
        "loss": loss(history, context, theme),
        "curves": curves.draw(history, context.measure.curves, theme),
        "rate": rate(history, context, theme),
        "throughput": throughput(history, context, theme),
        "diagnostics": diagnostics(history, context, theme),
    }
    return {name: png(page) for name, page in pages.items() if page is not None}


def loss(history: History, context: PlotContext, theme: Theme) -> "Figure | None":
    """Training loss, each step and smoothed; validations with their standard errors; the best; skipped steps."""
    curve = smoothing.by_mean(history.loss.steps, history.loss.values, history.weight.values)
    if curve is None and not history.validation:
        return None
    page, (axes,) = figure(theme, [f"{context.title} · loss"], height=4.6)
    if curve is not None:
        _draw_curve(axes, curve, theme.training, "training loss", "each step")
    for weights, track in history.validation.items():
        _draw_validation(axes, track, history.standard_error[weights], weights, context, theme)
    axes.set_title(" · ".join(_notes(axes, history)), loc="right", y=1, fontsize=8.5, color=theme.faint)
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


def rate(history: History, context: PlotContext, theme: Theme) -> "Figure | None":
    """The learning rate of each optimizer, and the gradient norm before clipping."""
    if not history.lr:
        return None
    names = [f"{context.title} · learning rate", "gradient norm, before clipping"]
    page, (upper, lower) = figure(theme, names, height=5.4)
    _draw_rates(upper, history, theme)
    upper.set_ylabel("learning rate")
    upper.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    norms = history.gradient_norm.values
    curve = smoothing.by_median(history.gradient_norm.steps, np.where(norms > 0, norms, np.nan))
    if curve is not None:
        logarithmic(lower, float(curve.low.min()), float(curve.high.max()), theme)
        _draw_curve(lower, curve, theme.training, "running median", "each step")
        if context.clip is not None and curve.high.max() > context.clip / 3:
            lower.axhline(
                context.clip,
                color=theme.of("raw"),
                linewidth=1.2,
                dashes=(5, 3),
                label=f"clipped to {context.clip:g}",
            )
        legend(lower, theme)
    lower.set_ylabel("norm")
    for axes in (upper, lower):
        steps(axes, history, named=axes is lower)
    return page


def _draw_rates(axes: "Axes", history: History, theme: Theme) -> None:
    """A line for each optimizer, with a legend if there are several. Every line keeps its peak."""
    highest = 0.0
    for number, (optimizer, track) in enumerate(history.lr.items()):
        rates = smoothing.by_mean(track.steps, track.values)
        if rates is None:
            continue
        highest = max(highest, float(rates.high.max()))
        axes.plot(
            rates.steps, rates.high, color=theme.optimizers[number % len(theme.optimizers)], linewidth=1.8,
            linestyle=_DASHES[number % len(_DASHES)], marker=_dot(rates), label=optimizer,
        )  # fmt: skip
    axes.set_ylim(0, highest * 1.08 or 1)
    legend(axes, theme)


def throughput(history: History, context: PlotContext, theme: Theme) -> "Figure | None":
    """The weight per second of each step; below it the share of the device's peak, and of waiting for data."""
    curve = smoothing.by_median(*history.throughput())
    if curve is None:
        return None
    shares = {
        "MFU, share of the peak": smoothing.by_median(history.mfu.steps, history.mfu.values),
        "waiting for data": smoothing.by_median(*history.waiting_share()),
    }
    known = {name: share for name, share in shares.items() if share is not None}
    titles = [f"{context.title} · throughput", *(["shares"] if known else [])]
    page, (upper, *lower) = figure(theme, titles, height=5.4 if known else 3.0)
    _draw_curve(upper, curve, theme.training, "running median", "each step")
    upper.set_ylim(0, max(float(np.quantile(curve.high, 0.98)), float(curve.smooth.max())) * 1.2)
    upper.set_ylabel("weight per second")
    upper.yaxis.set_major_formatter(lambda value, _: quantity(value))
    for axes in lower:
        for number, (name, share) in enumerate(known.items()):
            axes.plot(
                share.steps, share.smooth, color=theme.optimizers[number], linestyle=_DASHES[number], linewidth=1.8,
                marker=_dot(share), label=f"{name}, running median",
            )  # fmt: skip
        axes.set_ylim(0, None)
        axes.set_ylabel("share")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in (upper, *lower):
        steps(axes, history, named=axes is (upper, *lower)[-1])
        legend(axes, theme, place="lower right")
    return page


def diagnostics(history: History, context: PlotContext, theme: Theme) -> "Figure | None":
    """One panel for each diagnostic, in training and at validations. Diagnostics named group/name share a panel."""
    panels = _panels(history, context)
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
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        legend(axes, theme, place="best", size=7)
    return page


def _panels(history: History, context: PlotContext) -> dict[str, dict[str, dict[str, Track]]]:
    """The tracks by the title of their panel and the name of the diagnostic in it, without points of curves."""
    drawn = {name for curve in context.measure.curves.values() for name in curve.points}
    panels: dict[str, dict[str, dict[str, Track]]] = {}
    for name, tracks in sorted(history.diagnostics.items()):
        if name not in drawn and any(_finite(track) for track in tracks.values()):
            group, slash, member = name.partition("/")
            panels.setdefault(group if slash else name, {})[member if slash else name] = tracks
    return panels


def left_out(history: History, context: PlotContext) -> int:
    """Number of diagnostics beyond the largest number of panels."""
    return sum(len(members) for members in list(_panels(history, context).values())[_PANELS:])


def _draw_tracks(axes: "Axes", tracks: Mapping[str, Track], theme: Theme) -> None:
    """One diagnostic: smoothed in training, each point at validations."""
    for where, track in tracks.items():
        if where == "training":
            curve = smoothing.by_mean(track.steps, track.values)
            if curve is not None:
                _draw_curve(axes, curve, theme.training, "training", "")
            continue
        keep = _thin(np.flatnonzero(np.isfinite(track.values)), _POINTS)
        axes.plot(
            track.steps[keep], track.values[keep], color=theme.of(where), linewidth=1,
            marker=MARKERS.get(where, "D"), markersize=3.5 if len(keep) < 40 else 0,
            markerfacecolor=theme.paper if where == "raw" else None,
            label=f"validation, {weights_name(where)}",
        )  # fmt: skip


def _draw_member(axes: "Axes", name: str, tracks: Mapping[str, Track]) -> None:
    """One of several lines in a panel: in training, or else at validations with the last kind of weights."""
    track = tracks["training"] if "training" in tracks else list(tracks.values())[-1]
    keep = _thin(np.flatnonzero(np.isfinite(track.values)), 4 * _POINTS)
    axes.plot(track.steps[keep], track.values[keep], linewidth=1.3, marker="." if len(keep) < 40 else "", label=name)


def _draw_curve(axes: "Axes", curve: smoothing.Smoothed, colour: str, label: str, raw: str) -> None:
    """Each step, faint, and the smooth line through them."""
    if curve.single and np.array_equal(curve.low, curve.smooth):
        pass  # too few steps to smooth
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


def _draw_validation(
    axes: "Axes", losses: Track, errors: Track, weights: str, context: PlotContext, theme: Theme
) -> None:
    """Points with bars of one standard error to either side, and a star at the best."""
    at, values, bars = losses.steps, losses.values, errors.values
    keep = np.flatnonzero(np.isfinite(values))
    if not len(keep):
        return
    keep = _thin(keep, _POINTS)
    colour, marker = theme.of(weights), MARKERS.get(weights, "D")
    best, label = context.best.get(weights), f"validation, {weights_name(weights)}"
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
    """Set limits that the body of the run fills; returns notes on steps beyond them and on the error bars."""
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


def _dot(curve: smoothing.Smoothed) -> str:
    """A marker if there are too few points for a line."""
    return "o" if len(curve.steps) < 3 else ""


def _times(factor: float) -> Any:
    return lambda values: np.asarray(values) * factor


def _thin(values: Any, limit: int) -> Any:
    """At most `limit` of the values, evenly spread, with the first and the last."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), limit)).round().astype(int))]


def _finite(track: Track) -> bool:
    return bool(np.isfinite(track.values).any())
