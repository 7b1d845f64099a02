"""What people read on a terminal: results on stdout, messages and progress bars on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from seedfast.launcher import is_first

T = TypeVar("T")

_DELAY = 2.0  # seconds before a progress bar appears
_INTERVAL = 0.2  # seconds between its redraws
_NAMES = 10


class _Terminal(Console):
    """The console of stderr: if its reader exits, the work continues."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


def terminal() -> Console:
    """The console of stderr. There is one for each stream, so that a bar is drawn below a line that is there."""
    # While a line is drawn, rich has put a proxy of the stream in its place.
    return _terminal(getattr(sys.stderr, "rich_proxied_file", sys.stderr))


@lru_cache(maxsize=1)
def _terminal(stream: Any) -> Console:
    return _Terminal(file=stream, markup=False, emoji=False, highlight=False)


def animates(console: Console) -> bool:
    """Whether what is printed there can be drawn over again."""
    return console.is_terminal and not console.is_dumb_terminal


def printable(text: str) -> str:
    """A text without the control characters that would move the cursor or change the colours of a terminal.

    Bytes of a name that are not UTF-8 (half characters in Python) are replaced too. Carriage returns are left out, of
    which lines of Windows have one each.
    """
    return "".join(
        c if category(c) not in ("Cc", "Cs") or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text if c != "\r"
    )


def shown(text: str, console: Console) -> str:
    """A text as it is printed there: `printable` on a terminal, unchanged elsewhere."""
    return printable(text) if console.is_terminal else text


def is_on_screen() -> bool:
    """Whether stdout is a terminal; a closed one (None) is not."""
    return sys.stdout is not None and sys.stdout.isatty()


def put(text: str) -> None:
    """Print on stdout; on a terminal what is not printable in names and texts from elsewhere is replaced."""
    print(printable(text) if is_on_screen() else text, flush=True)


def say(message: str) -> None:
    """Print one line on stderr; of several processes of a run, only rank 0 prints."""
    if is_first():
        terminal().print(printable(message), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr, also where messages are silenced; only rank 0 prints."""
    if is_first():
        tell(f"WARNING: {message}")


def tell(message: str) -> None:
    """Print a line of the program on stderr, whatever the rank and also where messages are silenced."""
    print(f"seedfast: {printable(message)}", file=sys.stderr)


@contextmanager
def silenced(wanted: bool = True) -> Iterator[None]:
    """Within it, `say` and the progress bars print nothing; warnings and errors are printed all the same."""
    console = terminal()
    before, console.quiet = console.quiet, wanted or console.quiet
    try:
        yield
    finally:
        console.quiet = before


def abbreviate(names: Iterable[str], limit: int = _NAMES) -> str:
    """The first `limit` names, and the number of the others: "a, b, and 3 more"."""
    names = list(names)
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


_WATCHERS: ContextVar[tuple[Callable[[float], None], ...]] = ContextVar("watchers", default=())


@contextmanager
def watched(by: Callable[[float], None]) -> Iterator[None]:
    """Within it, `by` is called with the fraction done whenever a bar advances. An exception of it ends the work."""
    token = _WATCHERS.set((*_WATCHERS.get(), by))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


class Bar:
    """A progress bar that appears only on a terminal, and only when the work takes longer than two seconds."""

    def __init__(self, what: str, total: int) -> None:
        """what: the work. total: its amount, in the unit of `advance`."""
        console = terminal()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        shown = animates(console) and not console.quiet and is_first()
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self._task = self._progress.add_task(what, total=total)
        self._done, self._total = 0, total
        self._next_drawing = time.monotonic() + _DELAY

    def __enter__(self) -> Self:
        return self

    def advance(self, amount: int) -> None:
        """Add `amount` to the work done."""
        self._done += amount
        for watcher in _WATCHERS.get():
            watcher(self._done / self._total)
        # Drawing costs more than the work on a short document, so not every step is drawn.
        if not self._progress.disable and (now := time.monotonic()) > self._next_drawing:
            self._next_drawing = now + _INTERVAL
            self._progress.start()
            self._progress.update(self._task, completed=self._done, refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


def track(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The items, with a `Bar` of the work that is done between them."""
    with Bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance(1)
