"""What data preparation tells the person who waits for it, on stderr."""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PATIENCE = 2.0  # seconds before a progress bar appears
_NAMES = 10


def say(message: str) -> None:
    """One line on stderr."""
    Console(stderr=True, soft_wrap=True).print(escape(message), highlight=False)


def listed(names: Iterable[str], limit: int = _NAMES) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


class Bar:
    """A progress bar that appears only when the work takes long."""

    def __init__(self, what: str, total: int) -> None:
        """what: the work. total: its amount, in the unit of `advance`."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._appears = time.monotonic() + _PATIENCE
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def advance(self, amount: int) -> None:
        """So much more of the total is done."""
        self._progress.advance(self._task, amount)
        if not self._shown and time.monotonic() > self._appears:
            self._shown = True
            self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._progress.stop()
