"""The split: which document is trained on and which validates, found in one pass over all text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seedfast import keys
from seedfast.console import abbreviate
from seedfast.data.text.sources import Source
from seedfast.errors import UserError

TRAIN, VALIDATION, SKIPPED = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """Which document is trained on, which validates.

    roles: TRAIN, VALIDATION or SKIPPED for each document, uint8. boundary: of a plain source, the character
    at which validation begins. bytes: of all kept documents, in UTF-8. skipped: what was left out, and why.
    alphabet: all characters, sorted, if they were asked for.
    """

    roles: npt.NDArray[np.uint8]
    boundary: int
    bytes: int
    skipped: tuple[str, ...]
    alphabet: str


class Passage(NamedTuple):
    """A document, or a plain text's part, on one side of the split."""

    role: int
    name: str
    texts: Iterable[str]


def survey(source: Source, validation: float, *, want_alphabet: bool) -> Split:
    """Read everything once: what can be used, how large it is, and who validates."""
    sizes: list[int] = []
    ranks: list[int] = []
    skipped = list(source.skipped)
    characters = 0
    alphabet = np.zeros(0x110000 if want_alphabet else 0, bool)
    for document in source.documents():
        size, reason = 0, "empty"
        try:
            for text in document.texts:
                size += utf8_size(text)
                characters += len(text)
                if want_alphabet:
                    alphabet[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
        except (UnicodeDecodeError, OSError) as error:
            size, reason = 0, "not UTF-8" if isinstance(error, ValueError) else "unreadable"
        if size == 0:
            if source.plain:
                raise UserError(f"The file {source.title} is {reason}: name a file of text in UTF-8.")
            skipped.append(f"{document.name} ({reason})")
        sizes.append(size)
        ranks.append(keys.derive(0, "validation split", document.key))
    return Split(
        roles=_roles(source, np.array(sizes, np.int64), np.array(ranks, np.int64), validation, skipped),
        boundary=int(characters * (1 - validation)),  # as the field cuts: the first int(0.9 n) characters train
        bytes=sum(sizes),
        skipped=tuple(skipped),
        alphabet=np.flatnonzero(alphabet).astype("<u4").tobytes().decode("utf-32-le"),
    )


def _roles(
    source: Source,
    sizes: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
    validation: float,
    skipped: Sequence[str],
) -> npt.NDArray[np.uint8]:
    """Documents validate in the order of their keyed hashes until they hold the wanted part of the bytes.

    A document's hash depends on its name alone, so files that come or go move few others across the split.
    """
    roles = np.where(sizes > 0, TRAIN, SKIPPED).astype(np.uint8)
    if source.plain:
        return roles
    kept = np.flatnonzero(sizes)
    if len(kept) < 2:
        besides = f" (besides {abbreviate(skipped)})" if skipped else ""
        raise UserError(
            f"{source.title} holds {len(kept) or 'no'} usable document{'s' * (len(kept) != 1)}{besides}, but at "
            "least one has to be trained on and another has to validate: bring more, or name one plain file, "
            "which is cut in two."
        )
    by_rank = kept[np.argsort(ranks[kept], kind="stable")]
    enough = int(np.searchsorted(np.cumsum(sizes[by_rank]), validation * sizes.sum())) + 1
    # Equal keys (prompts that occur twice) stay together: what validates was never trained on.
    enough = int(np.searchsorted(ranks[by_rank], ranks[by_rank[enough - 1]], side="right"))
    roles[by_rank[: min(enough, len(kept) - 1)]] = VALIDATION
    return roles


def passages(source: Source, split: Split) -> Iterator[Passage]:
    """Both sides of the split, in the source's order."""
    for document, role in zip(source.documents(), split.roles, strict=True):
        if source.plain:
            yield Passage(TRAIN, document.name, _between(document.texts, 0, split.boundary))
            texts = next(source.documents()).texts
            yield Passage(VALIDATION, document.name, _between(texts, split.boundary, None))
        elif role != SKIPPED:
            yield Passage(int(role), document.name, document.texts)


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
