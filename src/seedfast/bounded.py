"""Bounds of time and memory for code of strangers that runs in a sandbox, such as chat templates.

A sandbox keeps such code from files and the network, but neither from an endless loop nor from an endless text.
"""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PAGE = resource.getpagesize()


class OutOfBoundsError(Exception):
    """Code that needs more time or memory than it may."""


@contextmanager
def bounded(*, seconds: float, size: int) -> Iterator[None]:
    """Raise OutOfBoundsError in the block after so much time of the processor, or for so many more bytes of memory.

    The time is bounded in the main thread, the memory on Linux; elsewhere the block runs without this bound.
    """
    with _time(seconds), _memory(size):
        yield


@contextmanager
def _time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfBoundsError(f"it does not end within {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory(size: int) -> Iterator[None]:
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = held + size
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    except MemoryError:
        raise OutOfBoundsError(f"it needs more than {size >> 20} MiB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
