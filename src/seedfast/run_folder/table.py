"""The journal as a table, for notebooks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seedfast.errors import UserError
from seedfast.run_folder import journal

_SHOWN = 10


@dataclass(frozen=True)
class Table(Mapping[str, npt.NDArray[np.float64]]):
    """Columns of numbers by name, all of the same length; "step" is the first."""

    columns: dict[str, npt.NDArray[np.float64]]

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def rows(self) -> int:
        """The number of journal lines."""
        return len(self.columns["step"])

    def __repr__(self) -> str:
        return f"<journal: {self.rows} lines, columns {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        start = max(0, self.rows - _SHOWN)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(column[row])}</td>" for column in self.columns.values()) + "</tr>"
            for row in range(start, self.rows)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>last {_SHOWN} of {self.rows}</p>"


def _cell(value: np.float64) -> str:
    return "" if np.isnan(value) else f"{value:,.6g}"


def read_lines(run_folder: Path) -> tuple[list[str], list[dict[str, float]]]:
    """The names of all columns, and each line of the journal by them; NaN is what was not finite.

    Raises UserError for a folder without a journal, or with a damaged one.
    """
    if not run_folder.is_dir():
        raise UserError(f"There is no folder {run_folder}.")
    if not (run_folder / "journal.jsonl").is_file():
        raise UserError(f"{run_folder} has no journal.jsonl, so it is not a run of seedfast.")
    entries = journal.read(run_folder)
    lines = [{"step": float(entry["step"])} | journal.scalars(entry, also_nan=True) for entry in entries]
    return list(dict.fromkeys(["step", *(name for line in lines for name in line)])), lines


def read_table(run_folder: Path) -> Table:
    """The journal of a run folder; what a line does not have is NaN. Raises UserError as `read_lines`."""
    names, lines = read_lines(run_folder)
    return Table({name: np.array([line.get(name, np.nan) for line in lines]) for name in names})
