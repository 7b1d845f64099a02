"""Work of the models, one job after another in a thread of its own, whose results are streamed as lines of JSON."""

import asyncio
import json
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from seedfast.console import watched
from seedfast.errors import UserError
from seedfast.files import finite

Emit = Callable[[dict[str, Any]], None]
"""Sends a line to the client. Raises LeftError if the client has left, which ends the sampler."""


_INTERVAL = 0.25
"""Seconds between two lines of progress."""
_OF_OPTIONS = re.compile(r"--(?!trust\b)(?=[a-z])")
"""The dashes before the name of an option, which is a control of the page; --trust is a flag of the studio."""


class LeftError(Exception):
    """The client has left, or the server is closing."""


class BusyError(Exception):
    """Too many jobs wait already."""


class Jobs:
    """waiting: the most jobs that may wait for the one that runs."""

    def __init__(self, waiting: int = 8) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="studio")
        self._most = waiting + 1
        self._left: set[Event] = set()

    def stream(self, work: Callable[[Emit], dict[str, Any]]) -> AsyncIterator[bytes]:
        """Begin a job; returns its lines: what it emits, {"progress": fraction done} now and then, and in the end its
        result, or {"error": a sentence}. Raises BusyError.

        When the iterator is closed, the job ends at the next line that it emits, or when its progress bar advances.
        Called in an event loop.
        """
        if len(self._left) >= self._most:
            raise BusyError(f"{self._most} requests run or wait already: try again in a moment.")
        loop, left = asyncio.get_running_loop(), Event()
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def emit(line: dict[str, Any]) -> None:
            if left.is_set():
                raise LeftError
            loop.call_soon_threadsafe(lines.put_nowait, line)

        def run() -> None:
            with watched(_Progress(emit, left)):
                emit(work(emit))

        def end(job: asyncio.Future[None]) -> None:
            self._left.discard(left)
            if not job.cancelled() and (error := job.exception()):
                lines.put_nowait({"error": _sentence(error)})
            lines.put_nowait(None)

        self._left.add(left)
        loop.run_in_executor(self._pool, run).add_done_callback(end)
        return _lines(lines, left)

    def cancel(self) -> None:
        """End all jobs at the next line that they emit."""
        for left in list(self._left):
            left.set()

    def close(self) -> None:
        """Cancel all jobs and wait for the one that runs."""
        self.cancel()
        self._pool.shutdown(cancel_futures=True)


class _Progress:
    """Watches the bars of a job: it emits how far they are, and ends the job of a client that has left."""

    def __init__(self, emit: Emit, left: Event) -> None:
        self._emit, self._left = emit, left
        self._due = time.monotonic() + _INTERVAL

    def __call__(self, done: float) -> None:
        if self._left.is_set():
            raise LeftError
        if (now := time.monotonic()) > self._due:
            self._due = now + _INTERVAL
            self._emit({"progress": round(done, 3)})


async def _lines(lines: "asyncio.Queue[dict[str, Any] | None]", left: Event) -> AsyncIterator[bytes]:
    try:
        while (line := await lines.get()) is not None:
            yield json.dumps(finite(line), allow_nan=False).encode() + b"\n"
    finally:
        left.set()


def _sentence(error: BaseException) -> str:
    """An error for the page. A mistake of this program is printed on the terminal."""
    if isinstance(error, UserError):
        return _OF_OPTIONS.sub("", error.reason)
    if isinstance(error, LeftError):
        return "The server is closing."
    traceback.print_exception(error, file=sys.stderr)
    return "The sampler has failed; the terminal of the studio shows why."
