"""The split: which documents are trained on and which validate, found in one pass over all text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seedfast import keys
from seedfast.console import abbreviate
from seedfast.data.text.sources import TextSource
from seedfast.errors import UserError

TRAIN, VALIDATION, SKIPPED = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """The assignment of documents to splits.

    assigned: TRAIN, VALIDATION or SKIPPED for each document, uint8. boundary: of a source that is one text, the
    character at which validation begins. bytes: size of all usable documents in UTF-8. skipped: what was left out, each
    with the reason. alphabet: all characters, sorted, if requested.
    """

    assigned: npt.NDArray[np.uint8]
    boundary: int
    bytes: int
    skipped: tuple[str, ...]
    alphabet: str


class Passage(NamedTuple):
    """A document, or a part of a single text, with its split: TRAIN or VALIDATION."""

    split: int
    name: str
    texts: Iterable[str]


def split_documents(source: TextSource, validation: float, *, need_alphabet: bool) -> Split:
    """Read everything once: which documents are usable, their sizes, and their splits.

    validation: the part of the bytes that validates.
    """
    sizes: list[int] = []
    ranks: list[int] = []
    skipped = list(source.skipped)
    characters = 0
    alphabet = np.zeros(0x110000 if need_alphabet else 0, bool)
    for document in source.documents():
        size, reason = 0, "empty"
        try:
            for text in document.texts:
                size += utf8_size(text)
                characters += len(text)
                if need_alphabet:
                    alphabet[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
        except (UnicodeDecodeError, OSError) as error:
            size, reason = 0, "not UTF-8" if isinstance(error, ValueError) else "unreadable"
        if size == 0:
            if source.is_one_text:
                raise UserError(f"The file {source.title} is {reason}: name a file of text in UTF-8.")
            skipped.append(f"{document.name} ({reason})")
        sizes.append(size)
        ranks.append(keys.derive(0, "validation split", document.key))
    return Split(
        assigned=_assign(source, np.array(sizes, np.int64), np.array(ranks, np.int64), validation, skipped),
        boundary=int(characters * (1 - validation)),  # as usual in the field: the first int(0.9 n) characters train
        bytes=sum(sizes),
        skipped=tuple(skipped),
        alphabet=np.flatnonzero(alphabet).astype("<u4").tobytes().decode("utf-32-le"),
    )


def _assign(
    source: TextSource,
    sizes: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
    validation: float,
    skipped: Sequence[str],
) -> npt.NDArray[np.uint8]:
    """Documents validate in the order of their keyed hashes until they hold the requested part of the bytes.

    A document's hash depends on its key alone, so adding or removing files moves few others to the other split.
    """
    assigned = np.where(sizes > 0, TRAIN, SKIPPED).astype(np.uint8)
    if source.is_one_text:
        return assigned
    usable = np.flatnonzero(sizes)
    if len(usable) < 2:
        besides = f" (besides {abbreviate(skipped)})" if skipped else ""
        raise UserError(
            f"{source.title} holds {len(usable) or 'no'} usable document{'s' * (len(usable) != 1)}{besides}, but at "
            "least one is needed to train and another to validate: add documents, or name one plain file, "
            "which is cut in two."
        )
    by_rank = usable[np.argsort(ranks[usable], kind="stable")]
    count = int(np.searchsorted(np.cumsum(sizes[by_rank]), validation * sizes.sum())) + 1
    # Equal keys (prompts that occur twice) stay together: no validation prompt is trained on.
    count = int(np.searchsorted(ranks[by_rank], ranks[by_rank[count - 1]], side="right"))
    assigned[by_rank[: min(count, len(usable) - 1)]] = VALIDATION
    return assigned


def passages(source: TextSource, split: Split) -> Iterator[Passage]:
    """The passages of both splits, in the source's order."""
    for document, number in zip(source.documents(), split.assigned, strict=True):
        if source.is_one_text:
            yield Passage(TRAIN, document.name, _between(document.texts, 0, split.boundary))
            texts = next(source.documents()).texts
            yield Passage(VALIDATION, document.name, _between(texts, split.boundary, None))
        elif number != SKIPPED:
            yield Passage(int(number), document.name, document.texts)


def _between(texts: Iterable[str], start: int, stop: int | None) -> Iterator[str]:
    """The characters start … stop-1 of the concatenated texts."""
    position = 0
    for text in texts:
        if stop is not None and stop <= position:
            return
        yield text[max(0, start - position) : None if stop is None else stop - position]
        position += len(text)


def utf8_size(text: str) -> int:
    """The text's length in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
