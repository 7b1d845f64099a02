"""Files with one document in each row: JSON lines, arrays and objects, tables (CSV, TSV) and Parquet."""

import codecs
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedfast.data.file_kinds import ARCHIVES, refuse_other_kinds
from seedfast.data.json_rows import LONGEST, Row, json_items, json_lines, json_objects
from seedfast.data.tables import table_rows
from seedfast.data.text.fields import KNOWN, wanted
from seedfast.data.text.object_rows import object_rows, without_rows
from seedfast.errors import UserError

JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".jsonlines")
TABLE_ENDINGS = (".csv", ".tsv")
ROW_ENDINGS = (*JSON_ENDINGS, *TABLE_ENDINGS, ".parquet")

_HEAD = 1 << 16  # bytes of a file among which its first character is looked for


class NoRowsError(UserError):
    """A file that is named as one of rows, and holds one JSON object without rows, or is malformed."""


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
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f'The file {path} has the column "{twice}" twice: rename one.')
            chosen = names if columns is None else [name for name in names if wanted(name, columns)]
            for batch in table.iter_batches(batch_size=1024, columns=chosen):
                for values in zip(*map(_values, batch.columns), strict=True):
                    yield number, without_nulls(dict(zip(batch.schema.names, values, strict=True)))
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last from names of columns
        why = str(error).split("\n", maxsplit=1)[0]
        raise UserError(f"The file {path} is not Parquet ({why}): name another file, or write it again.") from None


def _values(column: Any) -> list[Any]:
    """The values of a column of Arrow, as far as Python can hold them (see `_value`)."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        return [_value(each) for each in column]
    return values


def _value(scalar: Any) -> Any:
    """A value of Arrow: bytes for a text that is not UTF-8, null for others such as dates after the year 9999."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (OverflowError, ValueError):
        return None


def _rows_inside(value: Row, fields: Collection[str]) -> Form | None:
    """The form of the rows inside the only object of a file; None if none are found."""
    found = object_rows(value, fields)

    def read(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
        _, value = next(json_objects(path))
        found = object_rows(value, fields)
        return enumerate(found.rows if found else (), 1)

    return Form(found.name, "Row", read) if found else None


LINES = Form("JSON lines", "Line", lambda path, _: json_lines(path))
ARRAY = Form("a JSON array", "Item", lambda path, _: json_items(path))
OBJECTS = Form("a file of JSON objects over several lines", "Object", lambda path, _: json_objects(path))
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
    for ending in ARCHIVES:
        lower = lower.removesuffix(ending)
    return lower.endswith(ROW_ENDINGS)


def row_file(path: Path, field: str) -> RowFile | None:
    """The file as one of rows, in the form that its content has; None if it is one text.

    A file that is named as one of rows holds rows. Another file holds rows if it is Parquet, or if its first line is an
    object of JSON. field: that of the text. Raises UserError for an archive or a document of another program, and
    `NoRowsError` for a JSON object in which no rows are found.
    """
    ending = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"PAR1") or ending == ".parquet":
        return RowFile(path, PARQUET)
    refuse_other_kinds(path)
    if ending in TABLE_ENDINGS:
        return RowFile(path, TABLE)
    letter = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if ending in JSON_ENDINGS:
        form = _object_form(path, {*KNOWN, field}) if letter == b"{" else ARRAY if letter == b"[" else LINES
        return RowFile(path, form)
    return RowFile(path, LINES) if letter == b"{" and _is_object(_first_line(path)[0]) else None


def _first_line(path: Path) -> tuple[str, bool]:
    """The first line of a file that is not blank, stripped, and whether no other follows. One that is longer than
    any row, or not UTF-8, is empty."""
    first, is_more = b"", False
    with path.open("rb") as file:
        while line := file.readline(LONGEST + 1):
            stripped = line.removeprefix(codecs.BOM_UTF8).strip()
            if is_more := len(line) > LONGEST or bool(stripped and first):
                break
            first = first or stripped
    try:
        return first.decode(), not is_more
    except UnicodeDecodeError:
        return "", not is_more


def _object_form(path: Path, fields: Collection[str]) -> Form:
    """The form of rows in a file that begins with an object of JSON. fields: names of what rows are made of.

    Raises NoRowsError if it is the only one, and no rows are found in it.
    """
    first, is_all = _first_line(path)
    is_line = _is_object(first)
    if (is_line and not is_all) or not (is_line or _is_cut(first)):
        return LINES
    objects = json_objects(path)
    try:
        _, value = next(objects)
    except UserError as error:
        raise NoRowsError(str(error)) from error
    if not is_line and next(objects, None) is not None:
        return OBJECTS
    if form := _rows_inside(value, fields):
        return form
    if why := without_rows(value, fields, is_line=is_line):
        raise NoRowsError(f"The file {path} is one JSON object, and no rows ({why}).")
    return LINES if is_line else OBJECTS


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_cut(line: str) -> bool:
    """Whether a line is the beginning of a value of JSON that goes on in the next line."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line)
    except RecursionError:
        pass
    return False
