"""The journal: one line of JSON for every step and every validation, cut back to the checkpoint on resume.

Everything in a line except `time` is a function of the run and the step, so an interrupted run's journal ends equal
to an uninterrupted one's. What happened to the process (started, resumed, interrupted) goes to `events.jsonl`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import seedfast


class Journal:
    """Append to `journal.jsonl` of a run folder; only the leading process does."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / "journal.jsonl"
        self._events = run_folder / "events.jsonl"
        self._file = self.path.open("ab")

    def record(self, entry: dict[str, Any]) -> None:
        """Append one line. Kept in memory until `flush`."""
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")

    def flush(self, *, durable: bool = False) -> None:
        """Hand the lines to the operating system; `durable` waits for the disk, before a checkpoint relies on them."""
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def rewind(self, step: int) -> None:
        """Cut everything after `step`, and a last line that a kill left half-written."""
        size = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                size += len(line)
        self._file.truncate(size)
        self._file.seek(size)

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
        """Flush and close."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(run_folder: Path) -> Iterator[dict[str, Any]]:
    """The journal's entries in order; a half-written last line is passed over."""
    with (run_folder / "journal.jsonl").open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)
