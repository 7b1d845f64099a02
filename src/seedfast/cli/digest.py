"""`seedfast digest`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Digest:
    """One SHA-256 over every tensor of the newest checkpoint: weights, optimizer, averaged weights, family state.

    Two runs with the same digest are the same to the last bit.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    at: int | None = None
    """The checkpoint of this step instead of the newest."""


def digest(words: list[str]) -> int:
    """Print a run's digest."""
    asked = tyro.cli(Digest, args=words, prog="seedfast digest")
    from seedfast.evaluate import trained
    from seedfast.run_folder import train_state

    print(train_state.digest(train_state.read_tensors(trained.find(asked.run, at=asked.at).folder)))
    return 0
