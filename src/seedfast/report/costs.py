"""What a training has cost, for the page: throughput, share of the peak, waiting for data, memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seedfast.report.format import duration, quantity, size
from seedfast.report.history import History
from seedfast.report.html import Markup, element, table


def tiles(history: History) -> Iterator[tuple[str, str, str]]:
    """Name, value and note of the most important ones."""
    _, speed = history.throughput()
    if len(speed):
        yield "Throughput", quantity(float(np.median(speed))), "weight per second, median"
        yield "Time in steps", _time(history), "without validations and saves"


def section(history: History, unit: str, events: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """All of them as a table. unit: what the weights count."""
    if rows := list(_rows(history, unit, events)):
        yield element("h2", "Costs")
        yield table(["Quantity", "Training"], rows)


def _rows(history: History, unit: str, events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    _, speed = history.throughput()
    if not len(speed):
        return
    yield "time in steps", _time(history)
    yield f"{unit} per second, median", quantity(float(np.median(speed)))
    timed = np.isfinite(history.waiting.values)
    if timed.any():
        share = history.waiting.values[timed].sum() / history.seconds.values[timed].sum()
        yield "share of the time waiting for data", f"{share:.1%}"
    if history.saving:
        yield "standing still to save", duration(history.saving)
    if np.isfinite(history.mfu.values).any():
        yield "share of the peak (MFU), median", f"{np.nanmedian(history.mfu.values):.1%}"
        counted = [event for event in events if event.get("event") == "counted"][-1:]
        for name, number in ((name, event.get(name)) for event in counted for name in ("flops_per_step", "peak_flops")):
            if isinstance(number, int | float):
                yield name.replace("flops", "FLOPs").replace("_", " "), f"{number:.4g}"
    if history.memory:
        yield "peak memory", size(history.memory)


def _time(history: History) -> str:
    return duration(float(np.nansum(history.seconds.values)))
