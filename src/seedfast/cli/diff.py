"""`seedfast diff`."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.past import OfPast


@dataclass(frozen=True, kw_only=True)
class Diff(OfPast):
    """Where two runs part, and why: the first step that differs, and the first part of it that does.

    The parts are examples, noise, weights, forward, gradient, optimizer, average and validation. Both runs are computed
    again, side by side, from the last checkpoint that they have in common, or from the seed. Exits with 1 if they
    differ.
    """

    runs: tyro.conf.Positional[tuple[Path, Path]]
    """The two run folders."""


def diff(words: list[str]) -> int:
    """Compare two runs; see `Diff` for the flags."""
    asked: Diff = parse(Diff, words, prog="seedfast diff")
    from seedfast import api
    from seedfast.console import put

    found = api.diff(*asked.runs, device=asked.device, trust=asked.trust)
    if asked.json:
        print(json.dumps(found.as_json()))
    else:
        put(found.sentence)
        others = [part for part in found.differs if part != found.cause]
        if others:
            put(f"  in the same step, of themselves: {', '.join(others)}")
        for name, (one, other) in found.settings.items():
            put(f"  {name}: {one} → {other}")
        if found.start is not None:
            put(f"  computed again from step {found.start}")
        if found.note:
            put(f"  {found.note}")
    return 0 if found.step is None else 1
