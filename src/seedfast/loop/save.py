"""Saving checkpoints during training: failed saves are retried and never end the training."""

import math
import time

from seedfast.console import warn
from seedfast.errors import TrainingStopped
from seedfast.loop.session import Session


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


def save(session: Session, retry: Retry, *, last: bool) -> None:
    """Commit a checkpoint. If the disk is full, the save is retried with back-off and reported on stderr.

    Raises TrainingStopped if the last checkpoint of the session cannot be saved.
    """
    with session.placement.saving(session.state):
        if session.distributed.is_main:
            _save(session, retry, last=last)
    session.distributed.barrier()


def _save(session: Session, retry: Retry, *, last: bool) -> None:
    try:
        session.save()
        retry.succeeded()
    except OSError as error:
        session.state.best = dict(session.committed_best)  # only a committed validation can be the best
        if last:
            raise TrainingStopped(
                f"Training reached step {session.state.step}, but its last checkpoint could not be saved "
                f"({error}); make room and run the same command again to continue from the one before."
            ) from error
        retry.failed()
        warn(f"could not save a checkpoint ({error}); training continues")
