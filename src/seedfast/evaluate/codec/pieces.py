"""A file as text, which the model codes, and raw bytes between: invalid UTF-8, and what the tokenizer cannot hold."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError

_SHORTEST = 8  # characters around one that is unknown, which are not worth a piece of their own
_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # as Python's `surrogateescape` shows such bytes


@dataclass(frozen=True)
class Pieces:
    """tokens: of all text. table: of each piece, its number of tokens, and of raw bytes after it. raw: these bytes."""

    tokens: list[int]
    table: list[tuple[int, int]]
    raw: bytes


def cut(tokenizer: Tokenizer, content: bytes) -> Pieces:
    """The pieces of a file. All text in it decodes to the same bytes."""
    tokens: list[int] = []
    table: list[tuple[int, int]] = []
    raw: list[bytes] = []
    for text, ids in _runs(tokenizer, content.decode("utf-8", "surrogateescape")):
        if ids is not None:
            tokens += ids
            table.append((len(ids), 0))
            continue
        raw.append(text.encode("utf-8", "surrogateescape"))
        before, gap = table.pop() if table else (0, 0)
        table.append((before, gap + len(raw[-1])))
    return Pieces(tokens, table, b"".join(raw))


def joined(tokenizer: Tokenizer, pieces: Pieces) -> bytes:
    """The file of these pieces. Raises ValueError for an id that the tokenizer does not have."""
    found: list[bytes] = []
    token = place = 0
    for count, gap in pieces.table:
        found.append(tokenizer.decode(pieces.tokens[token : token + count]).encode())
        found.append(pieces.raw[place : place + gap])
        token, place = token + count, place + gap
    return b"".join(found)


def _runs(tokenizer: Tokenizer, text: str) -> Iterator[tuple[str, list[int] | None]]:
    """Consecutive parts of a text with their token ids; None where these do not decode to the same text."""
    for part in filter(None, _NOT_UTF8.split(text)):
        if _NOT_UTF8.match(part):
            yield part, None
            continue
        for is_known, some in groupby(_halves(tokenizer, part), key=lambda pair: pair[1]):
            run = "".join(piece for piece, _ in some)
            yield run, _ids(tokenizer, run) if is_known else None


def _halves(tokenizer: Tokenizer, text: str) -> Iterator[tuple[str, bool]]:
    """Parts of a text, and whether the tokenizer holds them: halves of halves where it does not hold all of it."""
    waiting = [text]
    while waiting:
        part = waiting.pop()
        is_known = _ids(tokenizer, part) is not None
        if is_known or len(part) <= _SHORTEST:
            yield part, is_known
        else:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]


def _ids(tokenizer: Tokenizer, text: str) -> list[int] | None:
    """The token ids of a text, if they decode to it and a model may write each of them."""
    try:
        ids = tokenizer.encode(text)
    except UserError:
        return None
    never = {tokenizer.end_of_text, *tokenizer.never_generate}
    return ids if tokenizer.decode(ids) == text and never.isdisjoint(ids) else None
