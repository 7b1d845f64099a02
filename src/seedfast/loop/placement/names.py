"""The names of placements, which runs store: reading a run loads no engine."""

from typing import Literal

PlacementName = Literal["auto", "ddp", "fsdp", "hsdp"]
