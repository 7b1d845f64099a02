"""The fields of rows: the names that rows are made of, whatever their capitals, and the texts in them."""

import json
from collections.abc import Collection
from reprlib import repr as brief
from typing import Any, TypeVar

from seedfast.data.json_rows import Row
from seedfast.errors import UserError

T = TypeVar("T")

TEXT = "text"
"""The usual field of a text."""

FIELDS = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "system", "history"),
    *("tools", "functions", "chat_template_kwargs", "label", "chosen", "rejected", "images", "image"),
)
"""The fields that chats are made of, or recognised by as what is not supported."""

KNOWN = (TEXT, *FIELDS, "question", "answer", "query", "response", "role", "content", "input_ids")
"""The fields of every form of rows that is read or named."""


def wanted(column: str, fields: Collection[str]) -> bool:
    """Whether a column is one of the fields, which stand in lower case."""
    return column in fields or column.lower() in fields


def in_lower_case(row: Row) -> Row:
    """A row with the known fields in lower case, as heads of tables often have capitals (Prompt, Completion).

    A field whose lower-case name is another field's stays as it is.
    """
    if all(str(name).islower() for name in row):
        return row
    made = dict[str, Any]()
    for name, value in row.items():
        lower = str(name).lower()
        made[lower if lower in KNOWN and lower not in row and lower not in made else name] = value
    return made


def text_field(row: Row, field: str, place: str) -> str:
    """The text of a row. place: the row's name in messages. Raises UserError if it has none."""
    row = row if field in row else in_lower_case(row)
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


def checked_value(value: T, field: str, place: str) -> T:
    """The value, if UTF-8 can hold all texts in it. Raises UserError otherwise."""
    checked_text(json.dumps(value, ensure_ascii=False, default=str), field, place)
    return value
