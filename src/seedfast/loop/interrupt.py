"""Signals and the end of a job: the loop finishes its step and saves. The tested guarantee is kill -9."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from seedfast import launcher

_PARENT = os.getppid()
_NOTED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """Within this context SIGINT, SIGTERM and SIGUSR1 are noted; after a SIGINT, all act as if there were no context.

    The others may come twice: from a cluster that sends them to all processes, and from torchrun, which passes them on.
    The end of torchrun counts as SIGTERM: it can send none when it is killed, and its processes would train on unseen.
    The end of the time of a job counts as SIGUSR1, by which SLURM announces it to those who ask (--signal).
    """

    def __init__(self) -> None:
        self._stop_at = launcher.stop_at()
        self._noted: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int | None:
        """The signal that was noted; None without one."""
        if self._noted is None and "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _PARENT:
            self._noted = signal.SIGTERM
        if self._noted is None and self._stop_at is not None and time.time() >= self._stop_at:
            self._noted = signal.SIGUSR1
        return self._noted

    def __enter__(self) -> Self:
        # Only the main thread can be interrupted; a training in another one ends with its process.
        is_main = threading.current_thread() is threading.main_thread()
        for number in _NOTED if is_main else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = number
        if number == signal.SIGINT:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
