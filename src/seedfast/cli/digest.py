"""`seedfast digest`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Digest:
    """One SHA-256 over every tensor of a checkpoint: weights, optimizer, averaged weights, family state.

    Two runs with the same digest are the same to the last bit.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    at: int | Literal["best", "newest"] = "newest"
    """Which checkpoint: the newest, the best (by the run's validations), or that of a step."""


def digest(words: list[str]) -> int:
    """Print a run's digest."""
    asked = parse(Digest, words, prog="seedfast digest")
    from seedfast.run_folder import train_state
    from seedfast.run_folder.choice import find

    print(train_state.digest(train_state.read_tensors(find(asked.run, at=asked.at).folder)))
    return 0
