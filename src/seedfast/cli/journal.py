"""`seedfast journal`."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seedfast.cli.arguments import parse
from seedfast.errors import UserError
from seedfast.options import AtLeast, check


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Print the numbers of a run's journal as CSV: a line for each step that was logged or validated.

    The columns are the curves of the report and the trackers, such as training/loss and validation/ema/loss. nan is a
    number that was not finite, and an empty cell one that was not measured at that step.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    columns: tuple[str, ...] = ()
    """Only these columns, besides step (default: all)."""
    last: Annotated[int | None, AtLeast(1)] = None
    """Only this number of lines, from the end (default: all)."""

    def __post_init__(self) -> None:
        check(self)


def journal(words: list[str]) -> int:
    """Print a journal as CSV; see `Journal` for the flags."""
    asked = parse(Journal, words, prog="seedfast journal")
    from seedfast.console import put
    from seedfast.run_folder.choice import run_folder_of
    from seedfast.run_folder.table import read_lines

    names, lines = read_lines(run_folder_of(asked.run))
    if unknown := [name for name in asked.columns if name not in names]:
        raise UserError(f"The journal has no column {unknown[0]}; it has {', '.join(names)}.")
    chosen = [name for name in dict.fromkeys(asked.columns or names) if name != "step"]
    rows = [line for line in lines if any(name in line for name in chosen or ["step"])]
    writer = csv.writer(table := io.StringIO(), lineterminator="\n")
    writer.writerow(["step", *chosen])
    for row in rows if asked.last is None else rows[-asked.last :]:
        writer.writerow(["" if name not in row else _cell(float(row[name])) for name in ["step", *chosen]])
    put(table.getvalue().removesuffix("\n"))
    return 0


def _cell(value: float) -> str:
    """No ".0" after a whole number; nan or inf for what is no number."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
