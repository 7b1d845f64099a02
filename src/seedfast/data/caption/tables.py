"""Tables of a comma, semicolon, tab or bar, as spreadsheets, pandas and Flickr's authors write them.

A row is found by what it holds, the name of an image, so the delimiter, the header and the columns need no options. A
quotation mark that is never closed costs its own row, not those after it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from seedfast.data.image.decode import has_image_ending
from seedfast.data.tables import DELIMITERS, Fault, Record, records, table_text
from seedfast.errors import UserError

IMAGE, CAPTION, NUMBER = "image", "caption", "number"
"""The names that columns get by their contents: the image's file; the text after it; the number of the caption."""

_QUOTING = (";", ",")
"""The delimiters of tables whose quotation marks quote. In tables of bars and tabs they belong to the captions."""

_LOOKED_AT = 50  # lines from which the delimiter is found
_SHOWN = 60  # characters of a line in a message


class Row(NamedTuple):
    """A row of a table: the number of its first line, and its cells by the name of the column."""

    line: int
    cells: dict[str, str]


def read_table(path: Path, skipped: list[str]) -> list[Row]:
    """The rows of a table of images. Rows that cannot be read are added to `skipped`, with their line.

    Columns without a name are left out, as the index that pandas writes. Raises UserError for text that is not UTF-8,
    or a table without rows that name an image.
    """
    lines = list(table_text(path))
    delimiter = _delimiter(lines)
    found = list(_records(lines, delimiter, skipped))
    first = next((place for place, record in enumerate(found) if _holds_image(record.cells)), None)
    if first is None:
        shown = f": line {found[0].line} is {_shown(delimiter.join(found[0].cells))}" if found else ""
        raise UserError(
            f"{path} lists no images with captions{shown}. A row is the file of an image and a caption, separated by a "
            "comma, a semicolon, a tab or |."
        )
    columns = _columns(found[0].cells if first else None, found[first].cells)
    rows = []
    for record in found[1 if first else 0 :]:
        cells = _named(record.cells, columns, delimiter)
        if cells is None:
            skipped.append(f"line {record.line} ({_shown(delimiter.join(record.cells))})")
        else:
            rows.append(Row(record.line, cells))
    return rows


def _records(lines: Sequence[str], delimiter: str, skipped: list[str]) -> Iterator[Record]:
    """The cells of each row. A quoted cell may hold line ends, but no line that is a row by itself."""

    def is_row(line: str) -> bool:
        return _holds_image(line.split(delimiter))

    quoted = delimiter in _QUOTING
    for found in records(lines, delimiter=delimiter, quoted=quoted, skip_spaces=True, is_row=is_row):
        if isinstance(found, Fault):
            skipped.append(f"line {found.line} ({found.reason}: {_shown(found.text.strip())})")
        else:
            yield found


def _is_image(cell: str) -> bool:
    return has_image_ending(image_of(cell))


def image_of(cell: str) -> str:
    """The image file of a cell. Flickr's token files number the captions of an image as image.jpg#0."""
    return re.sub(r"#\d+$", "", cell.strip().strip('"'))


def _holds_image(cells: Sequence[str]) -> bool:
    """Whether a row names an image."""
    return any(map(_is_image, cells))


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that separates an image's name from other cells in most of the first lines."""
    sample = [line for line in lines if line.strip()][:_LOOKED_AT]

    def rows(delimiter: str) -> int:
        return sum(delimiter in line and _holds_image(line.split(delimiter)) for line in sample)

    return max(reversed(DELIMITERS), key=rows)


def _columns(header: Sequence[str] | None, first: Sequence[str]) -> list[str]:
    """The name of each column: by the contents of the first row for the image, and else by the header, in lower case.

    Without a header, and where the image and one other column have names, the rest of a row is the caption, after its
    number if it has one.
    """
    image = next(column for column, cell in enumerate(first) if _is_image(cell))
    numbered = len(first) > image + 2 and first[image + 1].strip().isdigit()
    rest = [NUMBER, CAPTION] if numbered else [CAPTION]
    names = [name.strip().lower() for name in header or []]
    names += [""] * (image + 1 - len(names))
    names[image] = IMAGE
    if header is None or (len(names) == image + 1 + len(rest) and not any(names[:image])):
        names[image + 1 :] = rest
    return names


def _named(cells: Sequence[str], columns: Sequence[str], delimiter: str) -> dict[str, str] | None:
    """The cells by name, or None for a row of another form. A caption at the end may hold the delimiter."""
    last = len(columns) - 1
    if len(cells) < len(columns) or (len(cells) > len(columns) and columns[last] != CAPTION):
        return None
    values = [*cells[:last], delimiter.join(cells[last:])]
    found = {name: value.strip() for name, value in zip(columns, values, strict=True) if name}
    if not _is_image(found[IMAGE]) or not found.get(NUMBER, "0").isdigit():
        return None
    return found | {IMAGE: image_of(found[IMAGE])}


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])
