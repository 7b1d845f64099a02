"""The journal: one line of JSON for each step, validation and set of samples, cut back to the checkpoint on resume.

All of a line except `time` is a function of the run and the step, so the journal of an interrupted run ends equal to
that of an uninterrupted one. Events of the process (started, resumed, interrupted) are written to `events.jsonl`.
"""

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

from seedfast.errors import UserError
from seedfast.files import finite
from seedfast.untrusted import regular
from seedfast.version import VERSION

_LONGEST = 16 << 20  # bytes of a line: a validation has the scores of each source of a mixture, up to a thousand
_DIGITS = 19  # of whole numbers that are too large for 64 bits
_END = 1 << 18  # bytes in which the last line is looked for at first


class ScoreEntry(TypedDict):
    """The validation of one kind of weights. Further keys are the loss in other units, and its perplexity."""

    loss: float | None
    standard_error: float | None
    weight: float
    examples: int
    draws: int
    diagnostics: dict[str, float]
    sources: NotRequired[dict[str, "SourceEntry"]]
    """Of a mixture: the score of each source."""


class SourceEntry(TypedDict):
    """The validation of one source of a mixture."""

    loss: float | None
    standard_error: float | None
    weight: float
    examples: int


class StepEntry(TypedDict):
    """The line of an optimizer step. loss and gradient_norm are None where they were not finite."""

    step: int
    epoch: NotRequired[float]
    """Passes over the training examples so far."""
    loss: float | None
    gradient_norm: float | None
    lr: dict[str, float]
    """The learning rate of each optimizer, such as {"adamw": 1e-3, "muon": 0.015}. In version 0.1 one float."""
    weight: float
    digest: str
    skipped: NotRequired[str]
    diagnostics: NotRequired[dict[str, float]]
    time: NotRequired[dict[str, float]]
    """Costs: `seconds`, of which the process was `waiting` for data; weight per second, such as `tokens_per_second`;
    `saving`, the seconds before it in which the training stood still for a checkpoint, where there was one (no part of
    `seconds`); `mfu`, the share of the device's peak, where that is known; every `log_every` steps the peak `memory` in
    bytes. Earlier versions have `seconds` alone."""


class ValidationEntry(TypedDict):
    """The line of a validation: the score of each kind of weights ("raw", "ema")."""

    step: int
    epoch: NotRequired[float]
    validation: dict[str, ScoreEntry]
    time: NotRequired[dict[str, float]]


class SamplesEntry(TypedDict):
    """The line of samples: their files, relative to the run folder, and how they were decoded."""

    step: int
    samples: list[str]
    decoding: NotRequired[str]
    time: NotRequired[dict[str, float]]


Entry = StepEntry | ValidationEntry | SamplesEntry


class Journal:
    """Appends to `journal.jsonl` in a run folder. Only rank 0 has one."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / "journal.jsonl"
        self._events = run_folder / "events.jsonl"
        self._file = self.path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        self.size = self.path.stat().st_size
        """Bytes in the file. A checkpoint stores the size, and a resumed run cuts the journal to it."""
        self._hash = hashlib.sha256()  # of the file, once it is empty or `rewind` has read it

    def record(self, entry: Entry) -> None:
        """Append one line, with None for a number that is not finite, for which JSON has no word.

        If the disk is full, the line waits in memory and the next `flush` raises.
        """
        self._waiting.append(json.dumps(finite(entry), allow_nan=False).encode() + b"\n")
        with suppress(OSError):
            self._write()

    def flush(self) -> tuple[int, str]:
        """Write every line; returns the size and the SHA-256 of the file, which a checkpoint stores. Raises OSError."""
        self._write()
        return self.size, self._hash.hexdigest()

    def sync(self) -> None:
        """Wait until all that was written is on the disk, which a checkpoint requires. Raises OSError."""
        os.fsync(self._file.fileno())

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            if self._file.write(line) != len(line):
                self._file.truncate(self.size)  # remove the incomplete line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self.size += len(line)
            self._hash.update(line)
            del self._waiting[0]

    def rewind(self, step: int, size: int, sha256: str | None = None, *, edited: bool = False) -> None:
        """Cut the journal to its first `size` bytes, which must end with a line of `step`.

        sha256: of these bytes; None: not known, as in earlier versions. edited: allows them to have another one.
        Raises UserError if this is not the journal that the checkpoint was committed with.
        """
        with self.path.open("rb") as file:
            start = max(0, size - _LONGEST)
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
        self._hash = hash_of_start(self.path, size)
        if sha256 is not None and self._hash.hexdigest() != sha256 and not edited:
            raise UserError(
                f"{self.path} has been edited or damaged since step {step} (its SHA-256 differs); restore it from a "
                "backup, or pass --allow-change journal to continue with it as it is."
            )
        self._file.truncate(size)
        self.size = size

    def event(self, name: str, **details: Any) -> None:
        """Append an event of the process (not of the run) to `events.jsonl`.

        One that cannot be written is lost: a full disk does not end the training, and is reported where a save fails.
        """
        line = {
            "event": name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "version": VERSION,
            **details,
        }
        with suppress(OSError), self._events.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the files. Lines that could not be written belong to steps that the next session repeats."""
        with suppress(OSError):
            self._write()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hash_of_start(path: Path, size: int) -> "hashlib._Hash":
    """The SHA-256 of the first `size` bytes of a file, which can be continued."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size and (part := file.read(min(size, 1 << 20))):
            found.update(part)
            size -= len(part)
    return found


def read(run_folder: Path) -> Iterator[dict[str, Any]]:
    """The entries in order, without an incomplete last line. Raises UserError for a line that is no entry."""
    path = run_folder / "journal.jsonl"
    try:
        lines = regular(path, run_folder).open("rb")
    except ValueError as error:
        raise UserError(f"{error}.") from None
    with lines:
        for number, line in enumerate(iter(lambda: lines.readline(_LONGEST), b""), start=1):
            if not line.endswith(b"\n") and len(line) < _LONGEST:
                return
            try:
                yield parsed(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}, {error}; restore the journal.") from error


def parsed(line: bytes) -> dict[str, Any]:
    """The entry in a line. Raises ValueError, which continues "the line …", or RecursionError, for any other line.

    Whole numbers that no float can hold are infinite, as other numbers are in JSON.
    """
    try:
        entry = json.loads(line, parse_int=lambda digits: int(digits) if len(digits) < _DIGITS else float(digits))
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        raise ValueError("is not an entry of a journal")
    return entry


def last(run_folder: Path, file: str = "journal.jsonl") -> dict[str, Any]:
    """The last whole line of the journal, or of the events; empty without one. Reads no more than the file's end.

    Raises OSError, or ValueError for a file that is no regular one.
    """
    with regular(run_folder / file, run_folder).open("rb") as lines:
        size = os.fstat(lines.fileno()).st_size
        for end in (_END, _LONGEST):
            lines.seek(max(0, size - end))
            for line in reversed(lines.read(end).split(b"\n")[:-1]):
                with suppress(ValueError, RecursionError):
                    return parsed(line)
            if end >= size:
                break
    return {}


def follow(run_folder: Path, is_over: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The entries as they are written, until `is_over()`, which is called before each read and sets the pace."""
    with (run_folder / "journal.jsonl").open("rb") as lines:
        over = False
        while not over:
            over = is_over()  # before the read, so that lines written until then are not missed
            while (line := lines.readline()).endswith(b"\n"):
                yield json.loads(line)
            lines.seek(-len(line), os.SEEK_CUR)


def scalars(values: Mapping[str, Any], group: str = "", *, also_nan: bool = False) -> dict[str, float]:
    """The numbers of an entry by the names of their curves, such as `training/lr/adamw` or `validation/ema/loss`.

    also_nan: with NaN for those that were not finite.
    """
    if not group:
        parts = {"validation": values["validation"]} if "validation" in values else {}
        values = parts | ({"training": values} if "loss" in values else {})
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{group}{name}/", also_nan=also_nan)
        elif isinstance(value, int | float) and name != "step":
            found[f"{group}{name}"] = value
        elif value is None and also_nan:
            found[f"{group}{name}"] = math.nan
    return found


def sample_files(run_folder: Path, entry: Mapping[str, Any]) -> dict[str, Path]:
    """The files of samples that an entry names, by their names in trackers, such as `samples/grid.png`; none for an
    entry of another kind. The ending is part of the name: a picture and a text may differ in nothing else."""
    files = [run_folder / name for name in entry.get("samples", ())]
    return {f"samples/{file.name}": file for file in files}
