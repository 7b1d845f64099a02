"""What the commands about the past of a run have in common."""

from dataclasses import dataclass
from typing import Literal

from seedfast.cli.arguments import Trust


@dataclass(frozen=True, kw_only=True)
class OfPast:
    """Where and how the past is computed again."""

    json: bool = False
    """Print one JSON object."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute (default: as the run)."""
    trust: Trust = False


@dataclass(frozen=True, kw_only=True)
class OfOneRun(OfPast):
    """The past of one run."""

    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
