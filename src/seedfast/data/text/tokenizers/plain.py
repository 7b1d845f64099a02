"""Tokenizers without learned merges: one id for each character, or for each byte."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from seedfast.data.text.tokenizers.protocol import END_OF_TEXT, TokenArray, checked_ids, utf8
from seedfast.errors import UserError
from seedfast.files import to_json


@dataclass(frozen=True)
class Characters:
    """One id for each character of a sorted alphabet; end-of-text is the last id."""

    alphabet: str
    beginning_of_text: ClassVar[int | None] = None
    never_generate: ClassVar[tuple[int, ...]] = ()

    @property
    def size(self) -> int:
        return len(self.alphabet) + 1

    @property
    def end_of_text(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _codes(self) -> npt.NDArray[np.uint32]:
        return np.frombuffer(self.alphabet.encode("utf-32-le"), "<u4")

    @cached_property
    def _table(self) -> npt.NDArray[np.uint32]:
        table = np.full(0x110000, self.size, np.uint32)  # of all Unicode; `size` stands for "not in the alphabet"
        table[self._codes] = np.arange(len(self._codes))
        return table

    def _encode(self, text: str) -> TokenArray:
        utf8(text)
        ids: TokenArray = self._table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
        if (unknown := ids == self.size).any():
            character = text[int(unknown.argmax())]
            raise UserError(
                f"The character {character!r} (U+{ord(character):04X}) is not among the {len(self.alphabet)} "
                "characters that this model was trained on: leave it out."
            )
        return ids

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text).tolist()
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        return [self._encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return _decode_runs(
            checked_ids(ids, self.size),
            self.end_of_text,
            lambda run: self._codes[run].tobytes().decode("utf-32-le"),
        )

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return [self.decode(each) for each in ids]

    def byte_count(self, ids: Sequence[int]) -> int:
        return len(self.decode([id_ for id_ in ids if id_ != self.end_of_text]).encode())

    def cut(self, text: str) -> int:
        return len(text)

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": to_json({"kind": "characters", "alphabet": self.alphabet})}


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8, and end-of-text. Invalid byte sequences decode to U+FFFD."""

    size: ClassVar[int] = 257
    end_of_text: ClassVar[int] = 256
    beginning_of_text: ClassVar[int | None] = None
    never_generate: ClassVar[tuple[int, ...]] = ()

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        return [np.frombuffer(utf8(text), np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        return _decode_runs(
            checked_ids(ids, self.size),
            self.end_of_text,
            lambda run: run.astype(np.uint8).tobytes().decode("utf-8", errors="replace"),
        )

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        return [self.decode(each) for each in ids]

    def byte_count(self, ids: Sequence[int]) -> int:
        return sum(id_ != self.end_of_text for id_ in ids)

    def cut(self, text: str) -> int:
        return len(text)

    def files(self) -> dict[str, str]:
        return {"tokenizer.json": to_json({"kind": "bytes"})}


def plain_tokenizer(content: Mapping[str, Any]) -> Characters | Bytes | None:
    """The tokenizer that the content of a tokenizer.json describes; None if it is one of the library tokenizers."""
    match content.get("kind"):
        case "characters":
            return Characters(content["alphabet"])
        case "bytes":
            return Bytes()
    return None


def _decode_runs(ids: npt.NDArray[np.integer], end: int, decode_run: Callable[[npt.NDArray[np.integer]], str]) -> str:
    """Decode the runs between the end-of-text ids, and put END_OF_TEXT between them."""
    first, *others = np.split(ids, np.flatnonzero(ids == end))
    return END_OF_TEXT.join([decode_run(first), *(decode_run(run[1:]) for run in others)])
