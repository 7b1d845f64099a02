"""Ctrl-C and SIGTERM: the loop finishes its step and saves. A convenience: the tested guarantee is kill -9."""

import signal
from types import FrameType
from typing import Any, Self


class Interrupt:
    """Within this context the first SIGINT or SIGTERM is noted; the second acts as if there were no context."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
