"""The picture of a study: bits per byte of the runs against their FLOPs, and the law of each family with its band."""

from collections.abc import Sequence
from dataclasses import dataclass

from seedfast.report.theme import LIGHT, Theme, figure, legend, png

_MARKERS = "osD^v"
_FIFTH = "#8c6bb1"  # the palette has four colours


@dataclass(frozen=True)
class PlottedRun:
    """A run: FLOPs of its training, bits per byte, and its name."""

    flops: float
    value: float
    name: str


@dataclass(frozen=True)
class PlottedFamily:
    """The runs of a family, and its law: bits per byte at budgets (FLOPs), with the edges of a band."""

    name: str
    runs: Sequence[PlottedRun]
    budgets: Sequence[float]
    line: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw(families: Sequence[PlottedFamily], budget: float, theme: Theme = LIGHT) -> bytes:
    """A PNG file, with the same bytes each time. budget: the FLOPs that are marked."""
    page, (axes,) = figure(theme, ["bits per byte against FLOPs of training"], height=5.4)
    colours = [*theme.optimizers, _FIFTH]
    for number, family in enumerate(families):
        colour = colours[number % len(colours)]
        axes.fill_between(family.budgets, family.low, family.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(family.budgets, family.line, color=colour, linewidth=1.6)
        axes.plot(
            [run.flops for run in family.runs], [run.value for run in family.runs], color=colour, linestyle="none",
            marker=_MARKERS[number % len(_MARKERS)], markersize=5, label=family.name,
        )  # fmt: skip
        for run in family.runs:
            axes.annotate(
                run.name, (run.flops, run.value), xytext=(4, 3), textcoords="offset points", fontsize=7,
                color=theme.faint,
            )  # fmt: skip
    axes.axvline(budget, color=theme.faint, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    values = [value for family in families for value in (*family.line, *(run.value for run in family.runs))]
    axes.set_ylim(min(values) * 0.95, max(values) * 1.05)
    axes.set_xlabel("FLOPs of training; numbers: layers")
    axes.set_ylabel("bits per byte")
    legend(axes, theme)
    return png(page)
