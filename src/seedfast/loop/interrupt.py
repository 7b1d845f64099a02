"""Ctrl-C and SIGTERM: the loop finishes its step and saves. A convenience: the tested guarantee is kill -9."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

_PARENT = os.getppid()


class Interrupt:
    """Within this context the first SIGINT or SIGTERM is noted; the second acts as if there were no context.

    The end of torchrun counts as SIGTERM: it can send none when it is killed, and its processes would train on unseen.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int | None:
        """The signal that was noted; None without one."""
        if self._noted is None and "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _PARENT:
            self._noted = signal.SIGTERM
        return self._noted

    def __enter__(self) -> Self:
        # Only the main thread can be interrupted; a training in another one ends with its process.
        is_main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if is_main else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
