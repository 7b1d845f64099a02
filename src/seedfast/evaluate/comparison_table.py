"""A comparison as a table for people: in blocks of 80 columns, in Markdown, or as a page."""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from seedfast.evaluate.comparison import ComparedRuns, Row, Value, counted
from seedfast.evaluate.frontier import plotted
from seedfast.evaluate.pairing import Difference
from seedfast.report.format import duration, measured
from seedfast.report.frontier import draw
from seedfast.report.theme import DARK, LIGHT

_NAME = 20  # characters of a run's name before it is wrapped


@dataclass(frozen=True)
class Column:
    """A column: its title, and the cell of each run ("" for none). block: the columns that stand together."""

    block: str
    title: str
    cells: tuple[str, ...]


def columns(found: ComparedRuns) -> list[Column]:
    """The columns in which any run has a number."""
    made = [Column(block, title, tuple(cell(row) for row in found.rows)) for block, title, cell in _columns(found)]
    return [each for each in made if any(each.cells)]


def _columns(found: ComparedRuns) -> Iterator[tuple[str, str, Callable[[Row], str]]]:
    yield "value", found.unit, lambda row: _value(row.value)
    yield "value", "difference", lambda row: _difference(row.difference, row.name == found.best)
    yield "value", "over", lambda row: _parts(row.difference)
    yield "exact", "lower bound", _lower
    yield "exact", "deployed", lambda row: _value(row.deployed)
    yield "exact", "difference", lambda row: _difference(row.deployed_difference, row.name == found.best_deployed)
    yield "exact", "over", lambda row: _parts(row.deployed_difference)
    yield "training", "parameters", lambda row: _scaled(row.effort["parameters"])
    yield "training", "no embed.", lambda row: _scaled(row.effort["without_embeddings"])
    yield "training", "seen", lambda row: f"{_scaled(row.effort['seen'])} {row.effort['unit']}"
    yield "training", "epochs", lambda row: "" if row.effort["epochs"] is None else f"{row.effort['epochs']:.3g}"
    yield "training", "FLOPs", lambda row: "" if row.effort["flops"] is None else f"{row.effort['flops']:.3g}"
    yield "training", "time", lambda row: duration(row.effort["seconds"])
    yield "sampling", "per second, at evaluations", _speed
    yield "sampling", "frontier area, at evaluations", _areas
    yield "images", "Fréchet distance", lambda row: _spread(row.metrics.get("fidelity", {}).get("distance"))
    yield "images", "noise floor", lambda row: _spread(row.metrics.get("fidelity", {}).get("floor"))
    for name, title in (("cider", "CIDEr-D"), ("bleu_4", "BLEU-4"), ("rouge_l", "ROUGE-L")):
        yield "captions", title, partial(_caption, name)


def text(found: ComparedRuns) -> list[str]:
    """The comparison as lines of at most 80 columns: a block of columns below the other, and notes."""
    made = columns(found)
    lines = [data(found)]
    for block in dict.fromkeys(each.block for each in made):
        lines += ["", *_block([row.name for row in found.rows], [each for each in made if each.block == block])]
    lines.append("")
    for note in notes(found):
        lines += textwrap.wrap(note, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines


def _block(names: list[str], shown: list[Column]) -> list[str]:
    """Columns under each other; long names are wrapped."""
    wide = min(_NAME, max(len("run"), *map(len, names)))
    sizes = [max(len(each.title), *map(len, each.cells)) for each in shown]
    titles = "  ".join(f"{each.title:>{size}}" for each, size in zip(shown, sizes, strict=True))
    lines = [f"{'run':<{wide}}  {titles}"]
    for number, name in enumerate(names):
        first, *rest = [name[at : at + wide] for at in range(0, len(name), wide)]
        cells = "  ".join(f"{each.cells[number]:>{size}}" for each, size in zip(shown, sizes, strict=True))
        lines += [f"{first:<{wide}}  {cells}".rstrip(), *rest]
    return lines


def markdown(found: ComparedRuns) -> list[str]:
    """The comparison as one table of Markdown, with notes."""
    made = columns(found)
    rows = [["run", *(each.title for each in made)], ["---", *("---:" for _ in made)]]
    rows += [[row.name, *(each.cells[number] for each in made)] for number, row in enumerate(found.rows)]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [data(found), "", *lines, "", *(f"- {note}" for note in notes(found))]


def pictures(found: ComparedRuns) -> list[tuple[str, bytes, bytes]]:
    """The picture of the frontiers, if there are any: a caption, and PNG files for light and dark pages."""
    known = {row.name: row.metrics.get("frontier", {}) for row in found.rows}
    frontiers = {name: each["frontier"] for name, each in known.items() if "frontier" in each}
    curves = [plotted(each["curves"][-1], each["held_out"], name) for name, each in frontiers.items()]
    caption = f"Samples at several temperatures, by the judge {found.judge}; a star is held-out text."
    return [(caption, draw(curves, LIGHT), draw(curves, DARK))] if curves else []


def data(found: ComparedRuns) -> str:
    """What the runs are validated on, in words."""
    count = counted(found.kind, found.count)
    return f"{found.size:,} bytes of held-out data in {count}, sha256 {found.digest[:16]}…"


def notes(found: ComparedRuns) -> Iterator[str]:
    """What the numbers mean, and what is missing."""
    if found.best:
        yield f"± one standard error. ≤: a bound from above. difference: to {found.best}, the lowest value."
    parts = {each.parts for row in found.rows for each in (row.difference, row.deployed_difference) if each}
    if parts & {"windows", "blocks"}:
        yield (
            "The error of a difference comes from the differences on the same windows, or on the same blocks of bytes "
            "where windows differ, and not from those of the values."
        )
    if "independent" in parts:
        yield "independent: these runs have no windows in common; the error is the root of both squared errors."
    for row in found.rows:
        if warning := row.metrics.get("bracket", {}).get("lower_warning"):
            yield f"The lower bound of {row.name} is not reliable: {warning[0].lower()}{warning[1:]}"
        if row.deployed is not None and math.isinf(row.deployed.value):
            yield f"deployed of {row.name} is infinite: its sampler never writes some of the windows."
    if any(row.deployed and row.deployed != row.value for row in found.rows):
        yield (
            "deployed: the exact likelihood of sampling in the order of confidence (of autoregressive models, of "
            "sampling); lower bound and ≤: of a random order."
        )
    yield (
        "no embed.: parameters without tables of embeddings and, of texts, the output layer. FLOPs: steps × those of "
        "the matrix products in forward and backward pass, 2mkn each. time: of the training steps alone."
    )
    if any("speed" in row.metrics for row in found.rows):
        speed = next(row.metrics["speed"] for row in found.rows if "speed" in row.metrics)
        yield f"per second: tokens or images that are generated, {speed['together']} samples together, on this machine."
    fidelity = [row.metrics["fidelity"] for row in found.rows if "fidelity" in row.metrics]
    if fidelity:
        made, real, features = (fidelity[0][name] for name in ("made", "real", "features"))
        yield (
            f"Fréchet distance: of {made:,} generated images to {real:,} real ones, by {features}; noise floor: that "
            "of two random halves of the real images. Both fall with the number of images."
        )
    if any("frontier" in row.metrics for row in found.rows):
        yield (
            f"frontier area, by the judge {found.judge}: 0 as varied and as likely as held-out text, 1 as noise or as "
            "a text of one token; smaller is better."
        )
    for row in found.rows:
        if reason := row.metrics.get("frontier", {}).get("reason"):
            yield f"{row.name} has no frontier by this judge: {reason}"
    if found.is_judge:
        yield f"{found.is_judge} is the judge itself, which is no measure of its own text, so it has no frontier."


def _value(value: Value | None) -> str:
    if value is None:
        return ""
    if math.isinf(value.value):
        return "infinite"
    return "≤ " * value.is_bound + measured(value.value, value.standard_error)


def _lower(row: Row) -> str:
    mark = "?" if row.metrics.get("bracket", {}).get("lower_warning") else ""
    return f"{_value(row.lower)}{mark}"


def _difference(found: Difference | None, is_best: bool) -> str:
    if found is None:
        return "best" if is_best else ""
    return f"{'+' if found.value >= 0 else ''}{measured(found.value, found.standard_error)}"


def _parts(found: Difference | None) -> str:
    return "" if found is None else found.parts if not found.count else f"{found.count:,} {found.parts}"


def _scaled(count: float) -> str:
    """A count in three digits: 999, 12.3 k, 4.56 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:g}"


def _speed(row: Row) -> str:
    rates = row.metrics.get("speed", {}).get("rates", [])
    return ", ".join(_at(f"{_rate(each):,.4g}", each["evaluations"]) for each in rates)


def _rate(record: Mapping[str, Any]) -> float:
    return float(next(value for name, value in record.items() if name.endswith("_per_second")))


def _areas(row: Row) -> str:
    curves = row.metrics.get("frontier", {}).get("frontier", {}).get("curves", [])
    known = [each for each in curves if each["area"] is not None]
    return ", ".join(_at(measured(each["area"], each["area_standard_error"]), each["evaluations"]) for each in known)


def _at(number: str, evaluations: int | None) -> str:
    return number if evaluations is None else f"{number} at {evaluations:,}"


def _spread(spread: Mapping[str, Any] | None) -> str:
    return "" if spread is None else f"{sum(spread['values']) / len(spread['values']):.4f}"


def _caption(name: str, row: Row) -> str:
    own = row.metrics.get("captions", {}).get("metrics", {}).get(name, {}).get("model", {})
    return "" if own.get("value") is None else measured(own["value"], own["standard_error"])
