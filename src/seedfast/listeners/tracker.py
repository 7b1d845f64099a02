"""The journal, copied to a tracker by a background process that follows the file.

The process, `python -m seedfast.listeners.PACKAGE RUN PROJECT`, ends when its standard input ends, which the training
holds open, so it never outlives the training.
"""

import select
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from seedfast.files import commit
from seedfast.listeners.background import BackgroundProcess
from seedfast.listeners.base import Listener, Warn, require
from seedfast.run_folder.journal import Entry

PATIENCE = 60.0
"""Seconds that a finished run waits for pending data; an interrupted run waits for a sixth of it."""
_INTERVAL = 0.5  # seconds between reads of the journal


class TrackerListener(Listener):
    """Starts the background process of a tracker, watches it, and ends it with the session.

    package: of the tracker; the extra, the flag and the module in this folder have its name. title: of the tracker.
    """

    package: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, run_folder: Path, project: str, warn: Warn) -> None:
        """Raises UserError if the package is missing."""
        require(self.package)
        self._folder, self._warn = run_folder, warn
        self._process: BackgroundProcess | None = BackgroundProcess(
            f"seedfast.listeners.{self.package}", str(run_folder), project
        )

    def on_entry(self, entry: Entry) -> None:
        """Check that the process lives; it reads the journal itself."""
        if self._process and not self._process.is_running:
            self._finish(0)

    def close(self, *, finished: bool) -> None:
        """Wait until all data has been sent, up to `PATIENCE`."""
        self._finish(PATIENCE if finished else PATIENCE / 6)

    def _finish(self, seconds: float) -> None:
        process, self._process = self._process, None
        if process and (failure := process.end(seconds)):
            self._warn(f"{self.title} does not have the whole run ({failure}); {self._folder}/journal.jsonl does")


def identity(file: Path) -> str:
    """The id of a run for its tracker, made once and kept in a file of the run folder."""
    if not file.is_file():
        commit(file, uuid.uuid4().hex[:12])
    return file.read_text()


def input_ended() -> bool:
    """Whether the training has ended, after waiting for `_INTERVAL`."""
    return bool(select.select([sys.stdin], [], [], _INTERVAL)[0])


def run_process(copy: Callable[[Path, str], None], arguments: list[str], error_of: type[Exception]) -> int:
    """The background process. An error of its tracker, or an OSError, is a line on stderr and the exit status 1."""
    try:
        copy(Path(arguments[0]), arguments[1])
    except (error_of, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0
