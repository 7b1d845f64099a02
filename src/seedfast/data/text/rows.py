"""Files with one document in each row: JSON lines, JSON arrays, tables (CSV, TSV) and Parquet."""

import codecs
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any

from seedfast.data.json_rows import Row, json_items, json_lines
from seedfast.data.tables import table_rows
from seedfast.errors import UserError

JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".jsonlines")
TABLE_ENDINGS = (".csv", ".tsv")
ROW_ENDINGS = (*JSON_ENDINGS, *TABLE_ENDINGS, ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of compressed files, which are refused."""

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""How the content of compressed files begins: gzip, bzip2, xz, Zstandard, zip."""

_HEAD = 1 << 16  # bytes of a file by which its form is told


@dataclass(frozen=True)
class RowFile:
    """A file of rows. form: how they are stored."""

    path: Path
    form: "Form"

    def rows(self, columns: Collection[str] | None = None) -> Iterator[tuple[int, Row]]:
        """Each row with its number. columns: the only ones that are read of Parquet (default: all).

        Raises UserError for a malformed file.
        """
        return self.form.read(self.path, columns)

    def place(self, number: int) -> str:
        """A row's name in messages."""
        return f"{self.form.unit} {number} of {self.path}"


@dataclass(frozen=True)
class Form:
    """How rows are stored. name: for messages. unit: what the number of a row counts."""

    name: str
    unit: str
    read: Callable[[Path, Collection[str] | None], Iterator[tuple[int, Row]]]


def _read_parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    """Each row's number, from 0, and its columns."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(f"Reading {path} needs pyarrow: pip install 'seedfast[parquet]'.") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            wanted = None if columns is None else [name for name in names if name in columns]
            for batch in table.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    yield number, without_nulls(row)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"The file {path} is not Parquet ({why}): name another file, or write it again.") from None


LINES = Form("JSON lines", "Line", lambda path, _: json_lines(path))
ARRAY = Form("a JSON array", "Item", lambda path, _: json_items(path))
TABLE = Form("a table", "Line", lambda path, _: table_rows(path))
PARQUET = Form("Parquet", "Row", _read_parquet)


def without_nulls(row: Row) -> Row:
    """A row of Arrow without the nulls inside its columns, which stand for keys that the row has not.

    Arrow gives every object of a column the keys of all. A null content of a message is kept.
    """
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None or k == "content"}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def named_as_rows(name: str) -> bool:
    """Whether a file is named as one of rows, which may be compressed."""
    lower = name.lower()
    for ending in COMPRESSED:
        lower = lower.removesuffix(ending)
    return lower.endswith(ROW_ENDINGS)


def row_file(path: Path) -> RowFile | None:
    """The file as one of rows, in the form that its content has; None if it is one text or one JSON object.

    A file that is named as one of rows holds rows, unless it is a JSON object over several lines. Another file holds
    rows if it is Parquet, or if its first line is an object of JSON. Raises UserError for a compressed file.
    """
    ending = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if ending in COMPRESSED or head.startswith(_PACKED):
        raise UserError(f"The file {path} is compressed: unpack it, and name the file that it holds.")
    if ending == ".parquet" or head.startswith(b"PAR1"):
        return RowFile(path, PARQUET)
    if ending in TABLE_ENDINGS:
        return RowFile(path, TABLE)
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first = text.partition(b"\n")[0].strip()
    if ending in JSON_ENDINGS:
        is_one_object = ending == ".json" and first == b"{"
        return None if is_one_object else RowFile(path, ARRAY if text.startswith(b"[") else LINES)
    return RowFile(path, LINES) if _is_object(first) else None


def _is_object(line: bytes) -> bool:
    try:
        return line.startswith(b"{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def text_field(row: Row, field: str, place: str) -> str:
    """The text of a row. place: the row's name in messages. Raises UserError if it has none."""
    if field not in row:
        raise UserError(
            f'{place} lacks the field "{field}" (its fields are {", ".join(map(str, row))}): '
            "set data.field to the field that holds the text."
        )
    return checked_text(row[field], field, place)


def checked_text(value: object, field: str, place: str) -> str:
    """The value, if it is a text that UTF-8 can hold. Raises UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(
            f'{place} has {brief(value):.60} in "{field}", which is no text: remove it or name another field.'
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} has half a character (the lone surrogate U+{ord(value[error.start]):04X}) in "
            f'"{field}": fix or remove it.'
        ) from None
    return value
