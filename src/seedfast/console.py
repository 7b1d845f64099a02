"""What data preparation tells the person who waits for it, on stderr."""

import math
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PATIENCE = 2.0  # seconds before a progress bar appears
_INTERVAL = 0.2  # seconds between its steps
_NAMES = 10


def say(message: str) -> None:
    """One line on stderr."""
    Console(stderr=True, soft_wrap=True).print(message, markup=False, emoji=False, highlight=False)


def listed(names: Iterable[str], limit: int = _NAMES) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


class Bar:
    """A progress bar that appears only on a terminal, and only when the work takes long."""

    def __init__(self, what: str, total: int) -> None:
        """what: the work. total: its amount, in the unit of `advance`."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._done = 0
        self._shown = False
        self._next = time.monotonic() + _PATIENCE if console.is_interactive else math.inf

    def __enter__(self) -> Self:
        return self

    def advance(self, amount: int) -> None:
        """So much more of the total is done."""
        self._done += amount
        # Drawing costs more than the work on a short document, so not every step is drawn.
        if (now := time.monotonic()) > self._next:
            self._next = now + _INTERVAL
            self._shown = True
            self._progress.start()
            self._progress.update(self._task, completed=self._done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()
