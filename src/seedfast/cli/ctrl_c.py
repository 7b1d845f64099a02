"""Ctrl-C that interrupts only where it is expected, so that a program with a prompt never ends in between."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class CtrlC:
    """Within this context, SIGINT raises KeyboardInterrupt only within `interrupts`, once, and is ignored elsewhere."""

    def __init__(self) -> None:
        self._is_armed = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Where SIGINT may raise KeyboardInterrupt; it does so before this context has been left, or not at all."""
        try:
            self._is_armed = True
            yield
        finally:
            self._is_armed = False

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_armed:
            self._is_armed = False
            raise KeyboardInterrupt
