"""`seedfast runs`."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from seedfast.cli.arguments import parse

if TYPE_CHECKING:
    from seedfast.run_folder.listing import RunSummary


@dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a folder and below it: step, best validation loss, state, size and last change.

    States: training; finished; interrupted (saved, by Ctrl-C or SIGTERM); stopped (its numbers diverged); not finished
    (killed); unreadable. All but finished and unreadable ones go on with the command that began them.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, or runs."""
    json: bool = False
    """Print the list as JSON."""


def runs(words: list[str]) -> int:
    """List runs; see `Runs` for the flags."""
    asked = parse(Runs, words, prog="seedfast runs")
    from seedfast.console import put
    from seedfast.run_folder.listing import runs_below

    found = runs_below(asked.folders)
    if asked.json:
        print(json.dumps([{**asdict(each), "path": str(each.path)} for each in found], indent=2))
    elif found:
        _print(found)
    else:
        put(f"no runs in {', '.join(map(str, asked.folders))}")
    return 0


def _print(found: "list[RunSummary]") -> None:
    from rich.console import Console
    from rich.table import Table

    from seedfast.console import is_on_screen, printable
    from seedfast.report.format import age, size

    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("run", overflow="fold")
    for name in ("step", "loss", "state", "size", "changed"):
        table.add_column(name, justify="right" if name in ("step", "size") else "left", no_wrap=True)
    now, shown = time.time(), printable if is_on_screen() else str
    for each in found:
        step = f"{each.step}/{each.steps}" if each.steps else ""
        table.add_row(shown(str(each.path)), step, _loss(each), each.state, size(each.size), age(now - each.changed))
    width = None if is_on_screen() else 10_000  # for other programs, a run is one line
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    console.print(table)
    for each in found:
        if each.problem:
            console.print(shown(f"{each.path}: {each.problem}"), soft_wrap=True)


def _loss(each: "RunSummary") -> str:
    from seedfast.report.format import measured

    if each.best is None:
        return ""
    return "≤ " * each.is_bound + measured(each.best["loss"], each.best["standard_error"])
