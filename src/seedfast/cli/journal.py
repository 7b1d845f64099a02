"""`seedfast journal`."""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seedfast.cli.arguments import parse
from seedfast.errors import UserError
from seedfast.options import AtLeast


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Print the numbers of a run's journal as CSV: a line for each step that was logged or validated.

    The columns are the curves of the report and the trackers, such as training/loss and validation/ema/loss.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    columns: tuple[str, ...] = ()
    """Only these columns, besides step (default: all)."""
    last: Annotated[int | None, AtLeast(1)] = None
    """Only this number of lines, from the end (default: all)."""


def journal(words: list[str]) -> int:
    """Print a journal as CSV; see `Journal` for the flags."""
    asked = parse(Journal, words, prog="seedfast journal")
    from seedfast.run_folder.choice import run_folder_of
    from seedfast.run_folder.table import read_table

    table = read_table(run_folder_of(asked.run))
    if unknown := [name for name in asked.columns if name not in table]:
        raise UserError(f"The journal has no column {unknown[0]}; it has {', '.join(table)}.")
    names = ["step", *dict.fromkeys(asked.columns or list(table)[1:])]
    columns = [table[name] for name in names]
    rows = [row for row in range(table.rows) if any(not math.isnan(column[row]) for column in columns[1:])]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows[-(asked.last or len(rows)) :] if rows else []:
        writer.writerow([_cell(float(column[row])) for column in columns])
    return 0


def _cell(value: float) -> str:
    """Nothing for a missing number, and no ".0" after a whole one."""
    return "" if math.isnan(value) else f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
