"""The journal: one line of JSON for every step and every validation, cut back to the checkpoint on resume.

Everything in a line except `time` is a function of the run and the step, so an interrupted run's journal ends equal
to an uninterrupted one's. What happened to the process (started, resumed, interrupted) goes to `events.jsonl`.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import seedfast
from seedfast.errors import UserError


class Score(TypedDict):
    """The validation of one kind of weights; further keys are the loss in other units."""

    loss: float | None
    standard_error: float | None
    weight: float
    examples: int
    draws: int
    diagnostics: dict[str, float]


class StepEntry(TypedDict):
    """The line of an optimizer step. loss and gradient_norm are None where they were not finite."""

    step: int
    loss: float | None
    gradient_norm: float | None
    lr: dict[str, float]
    """The learning rate of each optimizer by its name, such as {"adamw": 1e-3, "muon": 0.015}."""
    weight: float
    digest: str
    skipped: NotRequired[str]
    diagnostics: NotRequired[dict[str, float]]
    time: NotRequired[dict[str, float]]


class ValidationEntry(TypedDict):
    """The line of a validation: the score of each kind of weights ("raw", "ema")."""

    step: int
    validation: dict[str, Score]
    time: NotRequired[dict[str, float]]


class SamplesEntry(TypedDict):
    """The line of samples: their files, relative to the run folder."""

    step: int
    samples: list[str]


Entry = StepEntry | ValidationEntry | SamplesEntry


class Journal:
    """Append to `journal.jsonl` of a run folder; only the leading process does."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / "journal.jsonl"
        self._events = run_folder / "events.jsonl"
        self._file = self.path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        self.size = self.path.stat().st_size
        """Bytes that are in the file: a checkpoint notes it, and a resumed run cuts the journal there."""

    def record(self, entry: Entry) -> None:
        """Append one line. If the disk is full it waits in memory, and the next `flush` says so."""
        self._waiting.append(json.dumps(entry, allow_nan=False).encode() + b"\n")
        with suppress(OSError):
            self._write()

    def flush(self) -> None:
        """Wait until every line is on the disk, before a checkpoint relies on them. Raises OSError."""
        self._write()
        os.fsync(self._file.fileno())

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            if self._file.write(line) != len(line):
                self._file.truncate(self.size)  # no half lines
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self.size += len(line)
            del self._waiting[0]

    def rewind(self, step: int, size: int) -> None:
        """Cut everything after the first `size` bytes, whose last line must be of `step`.

        Raises UserError if the journal is not the one that the checkpoint was committed with.
        """
        with self.path.open("rb") as file:
            start = max(0, size - (1 << 16))
            file.seek(start)
            tail = file.read(size - start)
        try:
            last = json.loads(tail.splitlines()[-1])["step"] if size else 0
        except (ValueError, KeyError, IndexError, TypeError):
            last = None
        if len(tail) != size - start or (size and not tail.endswith(b"\n")) or last != step:
            raise UserError(
                f"{self.path} is not the journal of this run up to step {step} (it was cut or edited); restore it from "
                "a backup, or continue from an earlier checkpoint with --at."
            )
        self._file.truncate(size)
        self.size = size

    def event(self, name: str, **facts: Any) -> None:
        """Note something that happened to the process rather than to the run."""
        line = {
            "event": name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "version": seedfast.__version__,
            **facts,
        }
        with self._events.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close. Lines that could not be written belong to steps after the last checkpoint: they are computed again."""
        with suppress(OSError):
            self._write()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(run_folder: Path) -> Iterator[dict[str, Any]]:
    """The journal's entries in order; a half-written last line is passed over. Raises UserError on a damaged one."""
    path = run_folder / "journal.jsonl"
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}, is not JSON ({error}); restore the journal.") from error


def follow(run_folder: Path, is_over: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The journal's entries as they are written, until `is_over()`: asked again and again, it sets the pace."""
    with (run_folder / "journal.jsonl").open("rb") as lines:
        over = False
        while not over:
            over = is_over()  # asked before reading, so that nothing is missed that was written before
            while (line := lines.readline()).endswith(b"\n"):
                yield json.loads(line)
            lines.seek(-len(line), os.SEEK_CUR)


def scalars(values: Mapping[str, Any], group: str = "") -> dict[str, float]:
    """The numbers of an entry, by the names of their curves, such as `training/loss` or `validation/ema/loss`."""
    if not group:
        parts = {"validation": values["validation"]} if "validation" in values else {}
        values = parts | ({"training": values} if "loss" in values else {})
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{group}{name}/")
        elif isinstance(value, int | float) and name != "step":
            found[f"{group}{name}"] = value
    return found
