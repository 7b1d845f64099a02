"""Files with one document in each row: JSONL and Parquet."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seedfast.errors import UserError

Row = Mapping[str, Any]
Reader = Callable[[Path, str], Iterator[tuple[int, str]]]
"""Reads a file: given the field that holds the text, yields each row's number and text."""


def json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each line's number (from 1) and its object, without blank lines. Raises UserError if a line is no object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"Line {number} of {path} is not JSON ({error}): fix or remove it.") from None
            if not isinstance(row, dict):
                raise UserError(f"Line {number} of {path} lacks its fields (it is no JSON object): fix or remove it.")
            yield number, row


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Each line's number, from 1, and its text."""
    for number, row in json_rows(path):
        yield number, text_field(row, field, f"Line {number} of {path}")


def _read_parquet(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Each row's number, from 0, and its text."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(f"Reading {path} needs pyarrow: pip install 'seedfast[parquet]'.") from None
    number = 0
    try:
        table: Any = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"The file {path} is not Parquet ({error}): name another file, or write it again.") from None
    if field not in (columns := table.schema_arrow.names):
        raise UserError(
            f'The file {path} lacks the column "{field}" (it has {", ".join(columns)}): '
            "set data.field to the column that holds the text."
        )
    for rows in table.iter_batches(batch_size=1024, columns=[field]):
        for value in rows.column(0).to_pylist():
            yield number, checked_text(value, field, f"Row {number} of {path}")
            number += 1


READERS: dict[str, Reader] = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
"""The reader of each kind of row file, by the ending of the file's name."""


def reader_of(path: Path) -> Reader | None:
    """The reader of a file; None if the file is one text."""
    return READERS.get(path.suffix.lower())


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
        raise UserError(f'{place} has {value!r:.40} in "{field}", which is no text: remove it or name another field.')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} has half a character (the lone surrogate U+{ord(value[error.start]):04X}) in "
            f'"{field}": fix or remove it.'
        ) from None
    return value
