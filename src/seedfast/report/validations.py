"""What the validations of a run measured, for the page: the best and the newest of each kind of weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from seedfast.report.format import measured, spaced, weights_name
from seedfast.report.history import History
from seedfast.report.html import Markup, element, table
from seedfast.report.run_folder import Folder


def tiles(folder: Folder, history: History) -> Iterator[tuple[str, str, str]]:
    """Name, value and note of the best validation."""
    if not folder.best:
        yield "Best validation", "none yet", "no validation has been saved"
        return
    weights, best = min(folder.best.items(), key=lambda item: float(item[1]["loss"]))
    where = f"{weights_name(weights)}, step {best['step']:,}"
    yield "Best validation loss", measured(best["loss"], best["standard_error"]), where
    for unit, factor in list(history.units.items())[:1]:
        yield (
            f"Best {spaced(unit)}",
            measured(best["loss"] * factor, _scaled(best["standard_error"], factor)),
            where,
        )


def section(folder: Folder, history: History) -> Iterator[Markup]:
    """Best and last validation of each kind of weights."""
    yield element("h2", "Validation")
    rows = [_score_row(w, "best saved", best["step"], best, history.units) for w, best in folder.best.items()]
    rows += [_score_row(w, "last", step, score, history.units) for w, (step, score) in history.newest.items()]
    if not rows:
        yield element("p", "There has been no validation yet.", class_="faint")
        return
    order = {"raw weights": 0, "averaged weights": 1}
    rows.sort(key=lambda row: order.get(row[0], 2))
    yield table(["Weights", "Which", "Step", "Loss", *map(spaced, history.units), "Examples", "Draws"], rows, words=2)
    yield element("p", "± one standard error, from the spread between validation examples.", class_="faint")
    sources = [
        (
            weights_name(weights),
            name,
            f"{step:,}",
            measured(each["loss"], each["standard_error"]),
            f"{each['examples']:,}",
        )
        for weights, (step, score) in history.newest.items()
        for name, each in score.get("sources", {}).items()
    ]
    if sources:
        yield table(["Weights", "Source", "Step", "Loss", "Examples"], sources, words=2)


def _score_row(
    weights: str, which: str, step: int, score: Mapping[str, Any], units: Mapping[str, float]
) -> tuple[str, ...]:
    loss, error = score["loss"], score["standard_error"]
    return (
        weights_name(weights),
        which,
        f"{step:,}",
        measured(loss, error),
        *(measured(loss * factor, _scaled(error, factor)) for factor in units.values()),
        f"{score['examples']:,}",
        f"{score['draws']:,}",
    )


def _scaled(error: float | None, factor: float) -> float | None:
    return None if error is None else error * factor
