"""The picture of frontiers: a judge's nats against the variety of samples, and held-out text as a point in it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from seedfast.report.theme import LIGHT, Theme, figure, legend, png

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class PlottedPoint:
    """A point: variety in nats per token, the judge's nats per token and their standard error, and its name."""

    variety: float
    nats: float
    error: float
    name: str = ""


@dataclass(frozen=True)
class PlottedCurve:
    """The points of a sampler, and held-out text of the length of its samples."""

    name: str
    points: Sequence[PlottedPoint]
    held_out: PlottedPoint


def draw(curves: Sequence[PlottedCurve], theme: Theme = LIGHT, *, kind: str = "png") -> bytes:
    """A PNG or SVG file (kind) of these curves, with the same bytes each time."""
    page, (axes,) = figure(theme, ["judge's nats against variety"], height=5.0)
    seen: set[tuple[float, float]] = set()
    for number, curve in enumerate(curves):
        colour = theme.optimizers[number % len(theme.optimizers)]
        axes.errorbar(
            [each.variety for each in curve.points], [each.nats for each in curve.points],
            yerr=[each.error for each in curve.points], label=curve.name, color=colour, linewidth=1.4,
            marker=_MARKERS[number % len(_MARKERS)], markersize=5, elinewidth=1.1, capsize=2.5,
        )  # fmt: skip
        for each in curve.points:
            axes.annotate(
                each.name, (each.variety, each.nats), xytext=(5, -9), textcoords="offset points", fontsize=7.5,
                color=theme.faint,
            )  # fmt: skip
        held_out = curve.held_out
        if (held_out.variety, held_out.nats) in seen:
            continue
        axes.plot(
            [held_out.variety], [held_out.nats], marker="*", markersize=16, color=theme.ink, linestyle="none",
            label=None if seen else "held-out text", zorder=5,
        )  # fmt: skip
        axes.plot([0, held_out.variety], [held_out.nats] * 2, color=theme.faint, linewidth=0.8, linestyle=":")
        axes.axvline(held_out.variety, color=theme.faint, linewidth=0.8, linestyle=":")
        seen.add((held_out.variety, held_out.nats))
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.set_xlabel("variety: nats per token by which the texts predict themselves; numbers: temperature")
    axes.set_ylabel("judge's nats per token")
    legend(axes, theme, place="best")
    if kind == "png":
        return png(page)
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "seedfast"}):
        buffer = io.BytesIO()
        page.savefig(buffer, format="svg", facecolor=page.get_facecolor(), metadata={"Date": None})
    return buffer.getvalue()
