"""Saving checkpoints during training: failed saves are retried and never end the training.

With `async_save` the training stands still only while the state is copied (`Session.snapshot`); a thread commits the
copy. One save is in flight at most, so commits keep their order and one staging memory is enough. What depends on
whether a save has succeeded (the best validation, the next save, the end) waits for it.
"""

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

from seedfast.console import warn
from seedfast.errors import TrainingStopped
from seedfast.loop.session import Session
from seedfast.run_folder.tensors import Staging


class Retry:
    """When a failed save is tried again: after 10 s, 20 s, 40 s … up to ten minutes."""

    def __init__(self) -> None:
        self.delay = 10.0
        self._at = math.inf

    def due(self) -> bool:
        """Whether it is time to try again."""
        return time.monotonic() >= self._at

    def failed(self) -> None:
        """Wait, twice as long as the last time."""
        self._at = time.monotonic() + self.delay
        self.delay = min(600.0, self.delay * 2)

    def succeeded(self) -> None:
        """Start again with the shortest delay."""
        self.delay, self._at = 10.0, math.inf


class Saving:
    """Commits the checkpoints of a session. Leaving its context waits for the save in flight."""

    def __init__(self, session: Session) -> None:
        self._session, self._retry = session, Retry()
        self._staging = Staging()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._flight: Future[None] | None = None  # on rank 0 only
        self._failed: OSError | None = None  # of the newest save, on rank 0 only
        self._settled = True  # on all ranks
        self._stalled = 0.0

    def due(self) -> bool:
        """Whether it is time to try a failed save again."""
        if self._flight and self._flight.done():
            self._land()
        return self._retry.due()

    def save(self, *, at_once: bool = False) -> None:
        """Commit a checkpoint of this step, which a failed save only delays. All ranks call it at the same step.

        at_once: have it committed (or not) on return, also with `async_save`.
        """
        self._save(beside=self._session.run.async_save and not at_once)

    def _save(self, *, beside: bool, last: bool = False) -> None:
        self.settle()
        with self._standing_still():
            self._settled, self._failed = False, None
            with self._session.placement.saving(self._session.state):
                if self._session.distributed.is_main:
                    self._save_here(beside=beside, last=last)
        if not beside:
            self.settle()

    def _save_here(self, *, beside: bool, last: bool) -> None:
        try:
            if beside:
                snapshot = self._session.snapshot(self._staging)
                self._flight = self._writer.submit(self._session.commit, snapshot)
            else:
                self._session.save()
                self._retry.succeeded()
        except OSError as error:
            self._note(error, last=last)

    def save_last(self) -> None:
        """Commit the last checkpoint of the session. Raises TrainingStopped, on all ranks, if it cannot be saved."""
        self._save(beside=False, last=True)
        step = self._session.state.step
        if reason := self._session.distributed.broadcast(str(self._failed or "")):
            raise TrainingStopped(
                f"Training reached step {step}, but its last checkpoint could not be saved ({reason}); make room and "
                "run the same command again to continue from the one before."
            ) from self._failed

    def settle(self) -> None:
        """Wait until the newest save has succeeded or failed: only a committed validation can be the best."""
        if self._settled:
            return
        session = self._session
        with self._standing_still():
            self._land()
            failed, session.committed_best = session.distributed.broadcast((bool(self._failed), session.committed_best))
        if failed:
            session.state.best = dict(session.committed_best)
        self._settled = True

    def stall(self) -> float:
        """Seconds that the training stood still to save, since the last call."""
        seconds, self._stalled = self._stalled, 0.0
        return seconds

    def _land(self) -> None:
        """Wait for the save in flight. Errors other than of the disk are raised."""
        if self._flight is None:
            return
        flight, self._flight = self._flight, None
        try:
            flight.result()
        except OSError as error:
            self._note(error)
        else:
            self._retry.succeeded()
            self._session.announce_best()

    def _note(self, error: OSError, *, last: bool = False) -> None:
        self._failed = error
        self._retry.failed()
        if not last:
            warn(f"could not save a checkpoint ({error}); training continues")

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._stalled += time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._land()
        self._writer.shutdown()
