"""`seedfast report`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a static page and PNG plots from a run's journal; works while the run is still going on."""

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""


def report(words: list[str]) -> int:
    """Write a run's report and print where it is."""
    asked = parse(Report, words, prog="seedfast report")
    from seedfast.console import put
    from seedfast.report import page
    from seedfast.run_folder.choice import run_folder_of

    put(str(page.write(run_folder_of(asked.run))))
    return 0
