"""Tables of text: CSV and TSV files, row by row, each with the line on which it begins."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from seedfast.data.json_rows import LONGEST, text_lines
from seedfast.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
"""What separates the fields of a row. Spreadsheets write semicolons where the comma is the decimal sign."""


def delimiter_of(line: str) -> str:
    """The delimiter that is most frequent in a line, outside of quotation marks; a comma if there is none."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=outside.count)


def table_lines(path: Path, *, delimiter: str | None = None, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Each row's fields and the number of its first line, from 1, without blank lines and a byte order mark.

    delimiter: by default, that of the first line. quoted: whether quotation marks enclose fields.
    Raises UserError for text that is not UTF-8, and for a quotation mark that is not closed, or closed within a field:
    otherwise the rows after it would be read as a part of its field.
    """
    csv.field_size_limit(LONGEST)  # of the whole process; Python's default is 128 KiB
    lines = (line for _, line in text_lines(path))
    first = next(lines, "")
    skipped = 0
    if named := re.fullmatch(r"sep=(.)\s*", first):  # written by Excel, and no row
        delimiter, first, skipped = named[1], next(lines, ""), 1
    rows = csv.reader(
        _prepended(first, lines),
        delimiter=delimiter or delimiter_of(first),
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    start = 1 + skipped
    try:
        for row in rows:
            if row:
                yield start, row
            start = rows.line_num + 1 + skipped
    except csv.Error as error:
        raise UserError(
            f"The row that begins on line {start} of {path} cannot be read ({error}): close its quotation mark, and "
            "double the quotation marks inside a field."
        ) from None


def _prepended(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row's first line and its fields by the names of the header, which is the first row.

    Raises UserError for a name that occurs twice, or a row with another number of fields than the header.
    """
    rows = table_lines(path)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise UserError(f'The header of {path} has the column "{twice}" twice: rename one.')
    for number, row in rows:
        if len(row) != len(names):
            raise UserError(
                f"Line {number} of {path} has {len(row)} fields, and the header has {len(names)}: fix it (a field that "
                "contains the delimiter or a line end stands in quotation marks)."
            )
        yield number, {name: value for name, value in zip(names, row, strict=True) if name}
