"""The journal of a run as columns of numbers. A million steps take some tens of megabytes."""

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedfast.errors import UserError
from seedfast.run_folder import journal

Floats = NDArray[np.float64]

_OF_A_SCORE = frozenset(
    {"loss", "standard_error", "weight", "examples", "draws", "blocks", "diagnostics", "perplexity", "sources"}
)
"""The keys of every validation score; any other key is a unit, and its value is the loss in that unit."""


@dataclass
class Track:
    """A quantity at some of the steps."""

    _steps: "array[float]" = field(default_factory=lambda: array("d"))
    _values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, step: float, value: float | None) -> None:
        """Append one point. None, which stands for a value that was not finite, becomes NaN.

        Raises TypeError for a value that is no number.
        """
        self._steps.append(step)
        self._values.append(_number(value))

    @property
    def steps(self) -> Floats:
        """The steps, ascending."""
        return np.array(self._steps, dtype=np.float64)

    @property
    def values(self) -> Floats:
        """The value at each of the steps; NaN where it was not finite."""
        return np.array(self._values, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._steps)


@dataclass
class History:
    """The numbers of a journal.

    loss, gradient_norm, weight, seconds: one point for each step.
    saving: seconds that the training stood still to save.
    waiting, mfu: for each step its seconds of waiting for data, and its share of the device's peak; NaN if unknown.
    memory: peak of the memory in bytes; 0 if unknown.
    lr: learning rate by the name of the optimizer. Old journals have one rate without a name, here called "lr".
    diagnostics: by name, then by "training" or the kind of weights that was validated.
    validation, standard_error: by kind of weights ("raw", "ema").
    newest: step and score of the last validation by kind of weights, as recorded.
    units: conversion factors of the loss by the name of the unit.
    skipped: steps whose update was skipped. reasons: number of skipped updates by reason.
    decoding: how the newest samples were decoded, in words.
    """

    loss: Track = field(default_factory=Track)
    gradient_norm: Track = field(default_factory=Track)
    lr: dict[str, Track] = field(default_factory=dict)
    weight: Track = field(default_factory=Track)
    seconds: Track = field(default_factory=Track)
    waiting: Track = field(default_factory=Track)
    mfu: Track = field(default_factory=Track)
    memory: float = 0.0
    saving: float = 0.0
    diagnostics: dict[str, dict[str, Track]] = field(default_factory=dict)
    validation: dict[str, Track] = field(default_factory=dict)
    standard_error: dict[str, Track] = field(default_factory=dict)
    newest: dict[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    skipped: Track = field(default_factory=Track)
    reasons: Counter[str] = field(default_factory=Counter)
    step: int = 0
    decoding: str = ""

    def add_step(self, entry: Mapping[str, Any]) -> None:
        """Add the line of an optimizer step."""
        step = entry["step"]
        self.step = step
        self.loss.add(step, entry["loss"])
        self.gradient_norm.add(step, entry["gradient_norm"])
        rates = entry["lr"] if isinstance(entry["lr"], Mapping) else {"lr": entry["lr"]}
        for optimizer, rate in rates.items():
            self.lr.setdefault(optimizer, Track()).add(step, rate)
        self.weight.add(step, entry["weight"])
        self._add_costs(step, entry["time"])
        if "skipped" in entry:
            self.skipped.add(step, 1)
            self.reasons[str(entry["skipped"])] += 1
        self._add_diagnostics("training", step, entry.get("diagnostics", {}))

    def _add_costs(self, step: int, time: Mapping[str, Any]) -> None:
        self.seconds.add(step, time["seconds"])
        self.waiting.add(step, time.get("waiting"))
        self.mfu.add(step, time.get("mfu"))
        self.saving += _number(time.get("saving", 0.0))
        self.memory = max(self.memory, _number(time.get("memory", 0.0)))

    def add_validation(self, step: int, record: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the line of a validation."""
        for weights, score in record.items():
            loss = _number(score["loss"])
            self.validation.setdefault(weights, Track()).add(step, loss)
            self.standard_error.setdefault(weights, Track()).add(step, score["standard_error"])
            self.newest[weights] = (step, score)
            self._add_diagnostics(weights, step, score.get("diagnostics", {}))
            losses = {f"loss by source/{name}": each["loss"] for name, each in score.get("sources", {}).items()}
            self._add_diagnostics(weights, step, losses)
            if math.isfinite(loss) and loss:
                factors = {n: _number(v) / loss for n, v in score.items() if n not in _OF_A_SCORE}
                self.units |= {n: factor for n, factor in factors.items() if math.isfinite(factor) and factor > 0}

    def _add_diagnostics(self, where: str, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            self.diagnostics.setdefault(name, {}).setdefault(where, Track()).add(step, value)

    def throughput(self) -> tuple[Floats, Floats]:
        """Steps, and the weight per second of each."""
        seconds, weight = self.seconds.values, self.weight.values
        timed = seconds > 0
        return self.seconds.steps[timed], weight[timed] / seconds[timed]

    def waiting_share(self) -> tuple[Floats, Floats]:
        """Steps, and the share of the time of each that was spent waiting for data."""
        seconds, waiting = self.seconds.values, self.waiting.values
        timed = (seconds > 0) & np.isfinite(waiting)
        return self.seconds.steps[timed], waiting[timed] / seconds[timed]


def read(run_folder: Path) -> History:
    """The history of the run in a folder, also while the journal is being written.

    Raises UserError if the folder has no valid journal.
    """
    history = History()
    try:
        for entry in journal.read(run_folder):
            if "validation" in entry:
                history.add_validation(entry["step"], entry["validation"])
            elif "samples" in entry:
                history.decoding = str(entry.get("decoding", ""))
            else:
                history.add_step(entry)
    except FileNotFoundError as error:
        raise UserError(f"{run_folder} has no journal.jsonl, so it is not a run of seedfast.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run_folder / 'journal.jsonl'} is damaged or not a journal of seedfast "
            f"(after step {history.step}: {type(error).__name__}: {error})."
        ) from error
    return history


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
