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


def read_table(run_folder: Path) -> Table:
    """The journal of a run folder. Raises UserError if it holds none, or a damaged one."""
    if not (run_folder / "journal.jsonl").is_file():
        raise UserError(f"{run_folder} has no journal.jsonl, so it is not a run of seedfast.")
    entries = list(journal.read(run_folder))
    lines = [{"step": float(entry["step"])} | journal.scalars(entry) for entry in entries]
    names = dict.fromkeys(["step", *(name for line in lines for name in line)])
    return Table({name: np.array([line.get(name, np.nan) for line in lines]) for name in names})
