"""The protocol of tokenizers, and the checks that all of them make."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from seedfast.errors import UserError

END_OF_TEXT = "<|endoftext|>"
"""The text of end-of-text when ids are decoded (a pretrained tokenizer has a name of its own for it)."""

TokenArray = npt.NDArray[np.uint32]


class Tokenizer(Protocol):
    """Text to ids 0 … size-1 and back. A lossless tokenizer has decode(encode(text)) == text."""

    @property
    def size(self) -> int:
        """The number of ids, special ones included."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id before and after every document."""
        ...

    @property
    def beginning_of_text(self) -> int | None:
        """The id that a model reads before a text (`<bos>`); None for tokenizers that put nothing there.

        Without one, end-of-text is what a causal model reads before a text.
        """
        ...

    @property
    def never_generate(self) -> tuple[int, ...]:
        """The ids, besides end-of-text, that no text contains (padding, masks, gaps): samplers exclude them."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ids. Raises UserError on a character that cannot be encoded."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[TokenArray]:
        """The ids of each text, in parallel where the tokenizer can."""
        ...

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of these ids, with end-of-text as its name. Raises ValueError on an id outside 0 … size-1."""
        ...

    def decode_many(self, ids: Sequence[TokenArray]) -> list[str]:
        """The text of each array of ids."""
        ...

    def byte_count(self, ids: Sequence[int]) -> int:
        """The bytes of UTF-8 that these ids stand for, also where they cut a character; end-of-text has none."""
        ...

    def cut(self, text: str) -> int:
        """A position near the end of `text` where it can be cut without changing any token of either part.

        Zero if none was found: more text is needed.
        """
        ...

    def files(self) -> dict[str, str]:
        """The content of each file, by name, from which `load` rebuilds the tokenizer."""
        ...


def begin(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """A text as a causal model reads it: after the beginning-of-text, if the tokenizer has one.

    Without one, the text itself, and end-of-text in the place of an empty text.
    """
    if tokenizer.beginning_of_text is None:
        return tokens or [tokenizer.end_of_text]
    return [tokenizer.beginning_of_text, *tokens]


def encode_lossless(tokenizer: Tokenizer, names: Sequence[str], texts: Sequence[str]) -> list[TokenArray]:
    """The ids of each text. names: of the texts, in messages.

    Raises UserError if one does not decode to the same text: bits per byte would be wrong, and the model could not
    write the text.
    """
    encoded = tokenizer.encode_many(texts)
    for name, text, back in zip(names, texts, tokenizer.decode_many(encoded), strict=True):
        if back != text:
            place = next(
                (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(back), len(text))
            )
            raise UserError(
                f"The tokenizer does not give back {name}: {text[place : place + 20]!r} becomes "
                f"{back[place : place + 20]!r}, so bits per byte would be wrong. Choose a lossless tokenizer, such as "
                "bpe."
            )
    return encoded


def utf8(text: str) -> bytes:
    """The text in UTF-8. Raises UserError if it contains a lone surrogate (half a character)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text has half a character (the lone surrogate U+{ord(text[error.start]):04X}) at position "
            f"{error.start}, which no file can hold: leave it out."
        ) from None


def checked_ids(ids: Sequence[int] | npt.NDArray[np.integer], size: int) -> npt.NDArray[np.integer]:
    """The ids as an array. Raises ValueError if one is outside 0 … size-1."""
    array = np.asarray(ids, dtype=None if len(ids) else np.int64)
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < size:
        raise ValueError(f"token ids lie in 0 … {size - 1}, not in {array.min()} … {array.max()}")
    return array
