"""JSON as data: whole files, and rows in JSON lines or in an array, read one at a time.

JSON leaves open what a key that occurs twice means, and how deep values may nest; both are refused here.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from seedfast.errors import UserError

Row = Mapping[str, Any]

LONGEST = 1 << 28
"""The longest row that is read: bytes of a line, characters of an item. It bounds the memory."""

_DEEPEST = 200  # levels of nesting; parsers, printers and templates recurse, and Python's limit is 1000
_SPACE = re.compile(r"[ \t\n\r]*")  # what JSON allows between values
_BLOCK = 1 << 16  # characters of an array that are read together


class _DuplicateKey(ValueError):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKey(next(key for key in keys if keys.count(key) > 1))
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse_json(text: str | bytes, place: str) -> Any:
    """The value of a JSON text, without its byte order mark. place: its name in messages.

    Raises UserError if it is not UTF-8 or not JSON, has a key twice, or nests deeper than 200 levels.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 ({error.reason}): convert the file to UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise _not_json(place, error) from None
    _check_depth(value, text.count("{") + text.count("["), place)
    return value


def _not_json(place: str, error: ValueError | RecursionError) -> UserError:
    if isinstance(error, _DuplicateKey):
        return UserError(f'{place} has the key "{error}" twice, and JSON does not define which one counts: remove one.')
    why = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
    return UserError(f"{place} is not JSON ({why}): fix or remove it.")


def _check_depth(value: Any, brackets: int, place: str) -> None:
    """Raise UserError if a value nests too deeply. brackets: number of opening brackets in its text."""
    if brackets <= _DEEPEST:
        return
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _not_json(place, RecursionError())


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError as `parse_json` does, and for an unreadable file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"The file {path} cannot be read ({error.strerror}): check its permissions.") from None
    return parse_json(content, str(path))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line of a file in UTF-8 with its number, from 1, and its line end; without a byte order mark.

    Raises UserError for a line that is not UTF-8, or longer than `LONGEST`.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise UserError(f"Line {number} of {path} is longer than {LONGEST >> 20} MiB: split it.")
            try:
                yield number, (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"Line {number} of {path} is not UTF-8 ({error.reason}): convert the file to UTF-8."
                ) from None


def json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Each line's number (from 1) and its object, without blank lines. Raises UserError if a line is no object."""
    for number, line in text_lines(path):
        if line.strip():
            place = f"Line {number} of {path}"
            yield number, _as_row(parse_json(line, place), place)


def json_items(path: Path) -> Iterator[tuple[int, Row]]:
    """Each item's number (from 1) and its object, of a file that holds one JSON array.

    The memory is that of an item, of which the text has at most `LONGEST` characters. Raises UserError if an item is no
    object, or the file is no array.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _items(file, path)
    except UnicodeDecodeError as error:
        raise UserError(f"The file {path} is not UTF-8 ({error.reason}): convert it.") from None


def _items(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    held = file.read(_BLOCK)
    at = _skip(held, 0) + 1  # after the bracket
    number = 0
    while True:
        place = f"Item {number + 1} of {path}"
        at = _skip(held, at)
        error: ValueError | None = None
        if number == 0 and held[at : at + 1] == "]":
            at += 1
            break
        try:
            value, end = _DECODER.raw_decode(held, at)
        except (_DuplicateKey, RecursionError) as fault:
            raise _not_json(place, fault) from None
        except ValueError as fault:  # malformed, or cut by the end of what has been read
            error, end = fault, len(held)
        stop = _skip(held, end)
        if error is None and held[stop : stop + 1] in (",", "]"):
            _check_depth(value, held.count("{", at, end) + held.count("[", at, end), place)
            number += 1
            yield number, _as_row(value, place)
            at = stop + 1
            if held[stop] == "]":
                break
        elif error is None and stop < len(held):
            raise UserError(f"{place} is followed by {held[stop : stop + 20]!r}, not by a comma: fix it.")
        else:
            # The text that is held doubles, so that an item is parsed only a few times.
            more = file.read(max(_BLOCK, len(held) - at)) if len(held) - at <= LONGEST else ""
            if not more:
                long = len(held) - at > LONGEST
                why = f"it is longer than {LONGEST >> 20} Mi characters" if long else "the array does not end"
                raise _not_json(place, error or ValueError(why))
            held, at = held[at:] + more, 0
    if rest := (held[at:] + file.read(_BLOCK)).strip():
        raise UserError(f"The array in {path} is followed by {rest[:20]!r}: a file holds one array, or JSON lines.")


def _skip(text: str, at: int) -> int:
    """The position of the first character from `at` that is no white space."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _as_row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{place} lacks its fields (it is no JSON object): fix or remove it.")
    return value
