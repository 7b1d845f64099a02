"""Listeners: callbacks that copy what a run writes to TensorBoard, Weights & Biases or the Hugging Face hub.

Only rank 0 has listeners. They never change, delay or stop the training: a listener that fails is dropped with a
warning, and work that needs a network runs in a separate process (`background.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec

from seedfast.errors import UserError
from seedfast.run_folder.journal import Entry

Warn = Callable[[str], None]
"""Prints a sentence on stderr and adds it to the events of the run."""


def require(package: str) -> None:
    """Raise UserError if the package of a listener is missing; the flag and the extra have its name."""
    if find_spec(package) is None:
        raise UserError(
            f"--{package} needs the package {package}; install it (pip install 'seedfast[{package}]') or leave the "
            "option out: the journal has every number too."
        )


class Listener:
    """The base class; override the events you need."""

    def on_entry(self, entry: Entry) -> None:
        """A line was written to the journal."""

    def on_best(self, step: int) -> None:
        """The best checkpoint so far is the committed one of this step. Repeated at every checkpoint."""

    def close(self, *, finished: bool) -> None:
        """The session ends. finished: so does the run, and there is time to wait for pending work."""


class Listeners(Listener):
    """Passes each event to several listeners."""

    def __init__(self, listeners: Sequence[Listener], warn: Warn) -> None:
        self._listeners, self._warn = list(listeners), warn

    def on_entry(self, entry: Entry) -> None:
        """Pass it to each listener."""
        for each in tuple(self._listeners):
            self._call(each, lambda listener: listener.on_entry(entry))

    def on_best(self, step: int) -> None:
        """Pass it to each listener."""
        for each in tuple(self._listeners):
            self._call(each, lambda listener: listener.on_best(step))

    def close(self, *, finished: bool) -> None:
        """Close each listener, also if waiting for another one is interrupted."""
        with ExitStack() as stack:
            for each in self._listeners:
                stack.callback(self._call, each, lambda listener: listener.close(finished=finished))

    def _call(self, listener: Listener, event: Callable[[Listener], None]) -> None:
        try:
            event(listener)
        except OSError as error:  # such as a full disk
            self._listeners.remove(listener)
            self._warn(f"{type(listener).__name__} failed and is switched off ({error}); training continues")
