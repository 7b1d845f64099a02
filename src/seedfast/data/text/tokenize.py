"""From documents to token files. Streams: neither a text nor its ids are ever held whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seedfast.console import Bar
from seedfast.data.cache import TokenWriter, token_type
from seedfast.data.fingerprint import Signature
from seedfast.data.text import dialogues, tokenizers
from seedfast.data.text.bpe import train_bpe
from seedfast.data.text.dialogues import DialogueSource
from seedfast.data.text.sources import Source
from seedfast.data.text.split import TRAIN, Passage, Split, passages, survey, utf8_size
from seedfast.data.text.tokenizers import TokenArray, Tokenizer
from seedfast.errors import UserError

SPLITS = ("train", "validation")

_PIECE = 1 << 17  # characters that are encoded as one
_BATCH = 1 << 21  # characters that are encoded together


class Piece(NamedTuple):
    """Text that is encoded as one; `ends`: nothing of its passage follows."""

    role: int
    name: str
    text: str
    ends: bool


def prepare(
    source: Source,
    folder: Path,
    *,
    seen: Mapping[str, Signature],
    kind: str,
    vocabulary: int,
    validation: float,
    given: Tokenizer | None,
) -> dict[str, Any]:
    """Fill `folder` with tokenizer.json, train.bin and validation.bin, and return the facts about them.

    seen: the files' signatures when their content was hashed. kind: "characters", "bytes" or "bpe" (of so
    large a `vocabulary`), unless a tokenizer is `given`. validation: the part of the bytes that validates.
    Raises UserError on data that cannot be used.
    """
    split = survey(source, validation, want_alphabet=kind == "characters" and given is None)
    tokenizer = given or _build(kind, vocabulary, source, split)
    tokenizers.save(tokenizer, folder)
    if isinstance(source, DialogueSource):
        facts = dialogues.tokenise(source, split, tokenizer, folder, SPLITS)
    else:
        facts = _tokenise(source, split, tokenizer, folder)
    if source.signatures() != seen:
        raise UserError(f"The data in {source.title} changed while they were being read: start again.")
    return {**facts, "size": tokenizer.size, "skipped": list(split.skipped)}


def pieces(found: Iterable[Passage], cut: Callable[[str], int]) -> Iterator[Piece]:
    """Passages in pieces of a bounded size, cut where `cut` says that no token changes."""
    for role, name, texts in found:
        held, wanted = "", _PIECE
        for text in texts:
            for start in range(0, len(text), _PIECE):
                held += text[start : start + _PIECE]
                if len(held) > wanted:
                    place = cut(held)
                    if place:
                        yield Piece(role, name, held[:place], False)
                    held = held[place:]
                    # No place found: look again when twice as much is held, lest a search be repeated often.
                    wanted = _PIECE if place else 2 * len(held)
        yield Piece(role, name, held, True)


def _build(kind: str, vocabulary: int, source: Source, split: Split) -> Tokenizer:
    if kind == "characters":
        return tokenizers.Characters(split.alphabet)
    if kind == "bytes":
        return tokenizers.Bytes()
    training = (passage for passage in passages(source, split) if passage.role == TRAIN)
    texts = (piece.text for piece in pieces(training, lambda text: next(tokenizers.seams(text), 0)))
    return train_bpe(texts, total=split.bytes, vocabulary=vocabulary, title=source.title)


def _tokenise(source: Source, split: Split, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Write both token files: [EOT] document [EOT] document [EOT] …, or [EOT] text of a plain source."""
    kind = token_type(tokenizer.size)
    end = np.array([tokenizer.end_of_text], np.uint32)
    counts = [{"documents": 0, "bytes": 0, "tokens": 0} for _ in SPLITS]
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("Tokenising", split.bytes))
        writers = [stack.enter_context(TokenWriter(folder / f"{name}.bin", kind)) for name in SPLITS]
        for writer in writers:
            writer.write(end)
        for batch in _batches(pieces(passages(source, split), tokenizer.cut)):
            for piece, ids in zip(batch, _encode(tokenizer, batch), strict=True):
                count = counts[piece.role]
                size = utf8_size(piece.text)
                count["bytes"] += size
                count["documents"] += piece.ends
                writers[piece.role].write(ids)
                if piece.ends and not source.plain:
                    writers[piece.role].write(end)
                bar.advance(size)
        for count, writer in zip(counts, writers, strict=True):
            count["tokens"] = writer.count
    return dict(zip(SPLITS, counts, strict=True))


def _batches(found: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in found:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def _encode(tokenizer: Tokenizer, batch: list[Piece]) -> list[TokenArray]:
    """The ids of the pieces, each of which must come back unchanged: else bits per byte would be untrue."""
    encoded = tokenizer.encode_many([piece.text for piece in batch])
    for piece, back in zip(batch, tokenizer.decode_many(encoded), strict=True):
        if back != piece.text:
            at = next(
                (i for i, (a, b) in enumerate(zip(piece.text, back, strict=False)) if a != b),
                min(len(back), len(piece.text)),
            )
            raise UserError(
                f"The tokenizer does not give back the document {piece.name}: {piece.text[at : at + 20]!r} "
                f"becomes {back[at : at + 20]!r}, so bits per byte would be untrue. Choose a lossless "
                "tokenizer, such as bpe."
            )
    return encoded
