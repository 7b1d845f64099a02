"""Tables of text: CSV and TSV files, row by row, each with the line on which it begins."""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from seedfast.data.json_rows import LONGEST, text_lines
from seedfast.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
"""What separates the fields of a row. Spreadsheets write semicolons where the comma is the decimal sign."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class Record(NamedTuple):
    """The cells of a row, and the number of its first line, from 1."""

    line: int
    cells: list[str]


class Fault(NamedTuple):
    """A line, with its number, on which a row begins that cannot be read, and why."""

    line: int
    text: str
    reason: str


def delimiter_of(line: str) -> str:
    """The delimiter that is most frequent in a line, outside of quotation marks; a comma if there is none."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=outside.count)


def table_text(path: Path) -> Iterator[str]:
    """The lines of a table with their ends, of Unix, Windows or old Macs. Raises UserError for text that is not
    UTF-8."""
    for _, line in text_lines(path):
        yield from _LINE.findall(line) if "\r" in line else (line,)


def records(
    lines: Iterable[str],
    *,
    delimiter: str | None = None,
    quoted: bool = True,
    skip_spaces: bool = False,
    is_row: Callable[[str], bool] | None = None,
) -> Iterator[Record | Fault]:
    """Each row of a table, without blank lines; a fault where a quotation mark is not closed, or closed within a field.

    A row with a fault costs its first line alone, and reading goes on with the next line.
    delimiter: by default, that of the first line. quoted: whether quotation marks enclose fields. skip_spaces: whether
    spaces after a delimiter are dropped. is_row: whether a line is a row by itself, so that no quoted field spans it.
    """
    csv.field_size_limit(LONGEST)  # of the whole process; Python's default is 128 KiB
    rest = _Lines(lines)
    if named := re.fullmatch(r"sep=(.)\s*", rest.peek()):  # written by Excel, and no row
        delimiter = named[1]
        next(rest)
    delimiter = delimiter or delimiter_of(rest.peek())
    for first in rest:
        if not first.strip():
            continue
        start, taken = rest.number, [first]
        if not quoted:
            yield Record(start, first.rstrip("\r\n").split(delimiter))
            continue
        row = _row(first, rest, taken, is_row)
        try:
            yield Record(start, next(csv.reader(row, delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)))
        except csv.Error as error:
            rest.push_back(taken[1:])
            yield Fault(start, first, _reason(error))


def _row(first: str, rest: "_Lines", taken: list[str], is_row: Callable[[str], bool] | None) -> Iterator[str]:
    """The lines that a row may take, of which those that it does take are added to `taken`."""
    yield first
    while (line := rest.peek()) and not (is_row and is_row(line)):
        taken.append(next(rest))
        yield line


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark that is not closed"
    return "text after a closing quotation mark" if "expected after" in str(error) else str(error)


class _Lines:
    """Lines that can be looked at before they are taken, and given back. number: that of the last one taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._ready = iter(lines), deque[str]()
        self.number = 0

    def peek(self) -> str:
        """The next line, which stays; empty at the end."""
        if not self._ready and (line := next(self._lines, "")):
            self._ready.append(line)
        return self._ready[0] if self._ready else ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.peek():
            raise StopIteration
        self.number += 1
        return self._ready.popleft()

    def push_back(self, lines: list[str]) -> None:
        """Give lines back that were taken last."""
        self._ready.extendleft(reversed(lines))
        self.number -= len(lines)


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row's first line and its fields by the names of the header, which is the first row.

    Raises UserError for a name that occurs twice, a row with another number of fields than the header, and a quotation
    mark that is not closed, or closed within a field: otherwise the rows after it would be read as a part of its field.
    """
    names: list[str] | None = None
    for found in records(table_text(path)):
        if isinstance(found, Fault):
            raise UserError(
                f"The row that begins on line {found.line} of {path} cannot be read ({found.reason}): close its "
                "quotation mark, and double the quotation marks inside a field."
            )
        if names is None:
            names = _header(found.cells, path)
            continue
        if len(found.cells) != len(names):
            raise UserError(
                f"Line {found.line} of {path} has {len(found.cells)} fields, and the header has {len(names)}: fix it "
                "(a field that contains the delimiter or a line end stands in quotation marks)."
            )
        yield found.line, {name: value for name, value in zip(names, found.cells, strict=True) if name}


def _header(cells: list[str], path: Path) -> list[str]:
    names = [name.strip() for name in cells]
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise UserError(f'The header of {path} has the column "{twice}" twice: rename one.')
    return names
