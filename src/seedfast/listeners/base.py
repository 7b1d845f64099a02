"""Who is told what a run writes down: TensorBoard, Weights & Biases, the Hugging Face hub.

Only the leading process has listeners. Nothing that they do changes, delays or stops the training: who fails is told no
more, and what needs a network is done by a process beside the training (`aside.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

Warn = Callable[[str], None]
"""Says a sentence on stderr and among the run's events."""


class Listener:
    """Hears what it wants to hear."""

    def line(self, entry: Mapping[str, Any]) -> None:
        """A line of the journal has been written."""

    def best(self, step: int) -> None:
        """The checkpoint of this step is committed, and it is the best. Said again at every checkpoint."""

    def close(self, *, finished: bool) -> None:
        """Nothing more will be said. finished: the run has, so there is time to wait for what is on its way."""


class Listeners(Listener):
    """All of them."""

    def __init__(self, several: Sequence[Listener], warn: Warn) -> None:
        self._several, self._warn = list(several), warn

    def line(self, entry: Mapping[str, Any]) -> None:
        """Tell all."""
        for each in tuple(self._several):
            self._tell(each, lambda listener: listener.line(entry))

    def best(self, step: int) -> None:
        """Tell all."""
        for each in tuple(self._several):
            self._tell(each, lambda listener: listener.best(step))

    def close(self, *, finished: bool) -> None:
        """Let all go, also where the waiting for one is interrupted."""
        with ExitStack() as stack:
            for each in self._several:
                stack.callback(self._tell, each, lambda listener: listener.close(finished=finished))

    def _tell(self, listener: Listener, what: Callable[[Listener], None]) -> None:
        try:
            what(listener)
        except OSError as error:  # a full disk is TensorBoard's, not the training's
            self._several.remove(listener)
            self._warn(f"{type(listener).__name__} is told nothing more ({error}); training goes on")
