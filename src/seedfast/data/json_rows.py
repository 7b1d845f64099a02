"""JSON as data: whole files, and rows in JSON lines or in an array, read one at a time.

JSON leaves open what a key that occurs twice means, and how deep values may nest; both are refused here.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from seedfast.errors import UserError

Row = Mapping[str, Any]

LONGEST = 1 << 28
"""The longest row that is read: bytes of a line, characters of an item. It bounds the memory."""

_DEEPEST = 200  # levels of nesting; parsers, printers and templates recurse, and Python's limit is 1000
_SPACE = re.compile(r"[ \t\n\r]*")  # what JSON allows between values
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # what "surrogateescape" reads for a byte that is not UTF-8
_BLOCK = 1 << 16  # characters that are read together


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
    with _opened(path) as file:
        yield from _items(_Text(file, path))


def json_objects(path: Path) -> Iterator[tuple[int, Row]]:
    """Each number (from 1) and object of a file that holds JSON objects one after another, over any number of lines.

    The memory is that of an object, of which the text has at most `LONGEST` characters. Raises UserError if one is
    malformed.
    """
    with _opened(path) as file:
        text, number = _Text(file, path), 0
        while text.next_letter():
            number += 1
            place = f"Object {number} of {path}"
            yield number, _as_row(text.value(place), place)


def _first_line_not_utf8(path: Path) -> int:
    """The number, from 1, of the first line that is not UTF-8, in bounded memory however long the lines are."""
    number = 1
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        while block := file.read(_BLOCK):
            if bad := _ESCAPED_BYTE.search(block):
                return number + block.count("\n", 0, bad.start())
            number += block.count("\n")
    return number


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text of a file without its byte order mark. Raises UserError if it cannot be read or is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        place = f"Line {_first_line_not_utf8(path)} of {path}"
        raise UserError(f"{place} is not UTF-8 ({error.reason}): convert the file to UTF-8.") from None
    except OSError as error:
        raise UserError(f"The file {path} cannot be read ({error.strerror}): check its permissions.") from None


class _Text:
    """The text of a file, of which as much is held as the value that is being read."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.path = path
        self._file, self._held, self._at = file, "", 0

    def next_letter(self) -> str:
        """The next character that is no white space, which stays; empty at the end."""
        while True:
            match = _SPACE.match(self._held, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._held) or not self._read_on(_BLOCK):
                return self._held[self._at : self._at + 1]

    def skip(self) -> None:
        """Go on to the next character."""
        self._at += 1

    def shown(self) -> str:
        """The next characters, for messages."""
        return repr(self._held[self._at : self._at + 20])

    def value(self, place: str) -> Any:
        """The object or array that begins here. place: its name in messages.

        Raises UserError if it is malformed, or longer than `LONGEST` characters.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except (_DuplicateKey, RecursionError) as fault:
                raise _not_json(place, fault) from None
            except ValueError as fault:  # malformed, or cut by the end of what is held
                size = len(self._held) - self._at
                if size > LONGEST:
                    raise _not_json(place, ValueError(f"it is longer than {LONGEST >> 20} Mi characters")) from None
                # The text that is held doubles, so that a value is parsed only a few times.
                if not self._read_on(max(_BLOCK, size)):
                    raise _not_json(place, fault) from None
            else:
                brackets = self._held.count("{", self._at, end) + self._held.count("[", self._at, end)
                _check_depth(value, brackets, place)
                self._at = end
                return value

    def _read_on(self, size: int) -> bool:
        """Hold more of the text, without what has been read; False at its end."""
        more = self._file.read(size)
        self._held, self._at = self._held[self._at :] + more, 0
        return bool(more)


def _items(text: _Text) -> Iterator[tuple[int, Row]]:
    text.next_letter()
    text.skip()  # the bracket
    number, path = 0, text.path
    while (letter := text.next_letter()) != "]" or number:
        number += 1
        place = f"Item {number} of {path}"
        if letter == "]":
            raise UserError(f"The array in {path} has a comma after its last item: remove it.")
        if not letter:
            raise _not_json(place, ValueError("the array does not end"))
        value = text.value(place)
        after = text.next_letter()
        if not after:
            raise _not_json(place, ValueError("the array does not end"))
        if after not in ",]":
            raise UserError(f"{place} is followed by {text.shown()}, not by a comma: fix it.")
        yield number, _as_row(value, place)
        if after == "]":
            break
        text.skip()
    text.skip()
    if text.next_letter():
        raise UserError(f"The array in {path} is followed by {text.shown()}: a file holds one array, or JSON lines.")


def _as_row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        kind = "it is a list" if isinstance(value, list) else "it is no JSON object"
        raise UserError(f'{place} lacks the names of its fields ({kind}): a row is an object, such as {{"text": …}}.')
    return value
