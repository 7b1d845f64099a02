"""The theme of the plots: colours for light and dark pages, panels without frames, axes with plain numbers.

The palette of Okabe and Ito (2008) is distinguishable with any kind of colour vision.
matplotlib is imported only when something is drawn.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seedfast.report.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _DPI = 10.0, 160  # inches; dots per inch

MARKERS = {"raw": "s", "ema": "o"}
"""The marker of a kind of weights."""

Corner = Literal["upper right", "lower right", "best"]


@dataclass(frozen=True)
class Theme:
    """The colours of a plot. weights: the colour of each kind of weights."""

    paper: str
    ink: str
    faint: str
    grid: str
    training: str
    skipped: str
    weights: Mapping[str, str]
    optimizers: tuple[str, ...]
    """Colours of the optimizers in the order of their names, repeated if there are more."""

    def of(self, where: str) -> str:
        """The colour of training, or of a kind of weights."""
        return self.training if where == "training" else self.weights.get(where, self.skipped)


LIGHT = Theme(
    paper="#ffffff", ink="#1d2530", faint="#5d6878", grid="#e6e9ee", training="#0072b2", skipped="#b0558a",
    weights={"raw": "#d55e00", "ema": "#007d5c"}, optimizers=("#0072b2", "#d55e00", "#007d5c", "#b0558a"),
)  # fmt: skip
DARK = Theme(
    paper="#161a20", ink="#e4e7eb", faint="#9aa5b4", grid="#2a303a", training="#56b4e9", skipped="#dd94bd",
    weights={"raw": "#e69f00", "ema": "#2fc79b"}, optimizers=("#56b4e9", "#e69f00", "#2fc79b", "#dd94bd"),
)  # fmt: skip


def figure(theme: Theme, titles: list[str], *, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """A figure with one panel for each title; its only decoration is a light grid."""
    from matplotlib.figure import Figure

    whole = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=theme.paper)
    rows = -(-len(titles) // columns)
    # Fixed margins, in inches: matplotlib's layouts draw everything twice to measure it.
    wide, high = (_WIDTH - 1.75) / columns, (height - 0.9) / rows
    whole.subplots_adjust(
        left=1 / _WIDTH, right=1 - 0.75 / _WIDTH, bottom=0.55 / height, top=1 - 0.35 / height,
        wspace=0.6 / (wide - 0.6), hspace=0.55 / (high - 0.55),
    )  # fmt: skip
    panels: list[Axes] = []
    for number, title in enumerate(titles):
        axes = whole.add_subplot(rows, columns, number + 1, facecolor=theme.paper)
        size = 10.5 if columns == 1 else 9
        # At y=1: matplotlib would measure every tick label to move a title clear of them.
        axes.set_title(
            drawable(title), loc="left", y=1, fontsize=size, color=theme.ink, fontweight="bold", parse_math=False
        )
        axes.grid(True, color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(theme.faint)
        axes.tick_params(colors=theme.faint, labelsize=8.5 if columns == 1 else 7.5, length=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(theme.faint)
            axis.label.set_fontsize(9 if columns == 1 else 8)
            axis.get_offset_text().set_color(theme.faint)
            axis.get_offset_text().set_fontsize(8)
        panels.append(axes)
    return whole, panels


def drawable(text: str) -> str:
    """The text with a placeholder for each character that has no glyph: names are arbitrary strings."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def steps(axes: "Axes", history: History, *, named: bool = True, ticks: int = 8) -> None:
    """The horizontal axis: whole steps from the first to the last."""
    from matplotlib.ticker import MaxNLocator

    last = max(history.step, 1)
    axes.set_xlim(-0.01 * last, last * 1.01) if last > 1 else axes.set_xlim(0, 2)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    if named:
        axes.set_xlabel("step")


def logarithmic(axes: "Axes", low: float, high: float, theme: Theme) -> None:
    """A logarithmic vertical axis, for values from `low` to `high`, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    wide = high / low > 300
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", colors=theme.faint, length=0)


def legend(axes: "Axes", theme: Theme, *, place: Corner = "upper right", size: float = 8.5) -> None:
    """A legend, if the axes have more than one labelled line."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        legend = axes.legend(loc=place, fontsize=size, labelcolor=theme.ink, facecolor=theme.paper, edgecolor="none")
        legend.get_frame().set_alpha(0.8)


def png(whole: "Figure") -> bytes:
    """The figure as a PNG file, with the same bytes each time."""
    buffer = io.BytesIO()
    whole.savefig(
        buffer,
        format="png",
        facecolor=whole.get_facecolor(),
        metadata={"Software": None},
        pil_kwargs={"compress_level": 4},
    )
    return buffer.getvalue()
