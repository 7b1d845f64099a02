"""Messages and progress bars of data preparation, on stderr."""

import math
import os
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_DELAY = 2.0  # seconds before a progress bar appears
_INTERVAL = 0.2  # seconds between its redraws
_NAMES = 10


def say(message: str) -> None:
    """Print one line on stderr; of several processes of a run, only rank 0 prints."""
    if int(os.environ.get("RANK", 0)):
        return
    Console(stderr=True, soft_wrap=True).print(message, markup=False, emoji=False, highlight=False)


def abbreviate(names: Iterable[str], limit: int = _NAMES) -> str:
    """The first `limit` names, and the number of the others: "a, b, and 3 more"."""
    names = list(names)
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


class Bar:
    """A progress bar that appears only on a terminal, and only when the work takes longer than two seconds."""

    def __init__(self, what: str, total: int) -> None:
        """what: the work. total: its amount, in the unit of `advance`."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._done = 0
        self._visible = False
        self._next_drawing = time.monotonic() + _DELAY if console.is_interactive else math.inf

    def __enter__(self) -> Self:
        return self

    def advance(self, amount: int) -> None:
        """Add `amount` to the work done."""
        self._done += amount
        # Drawing costs more than the work on a short document, so not every step is drawn.
        if (now := time.monotonic()) > self._next_drawing:
            self._next_drawing = now + _INTERVAL
            self._visible = True
            self._progress.start()
            self._progress.update(self._task, completed=self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._visible:
            self._progress.stop()
