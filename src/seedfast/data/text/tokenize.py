"""From documents to token files. Everything streams: no whole text, and no whole array of ids, is held in memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seedfast.console import Bar
from seedfast.data.cache import TokenWriter, token_type
from seedfast.data.prepare import SPLITS
from seedfast.data.text import dialogues, tokenizers
from seedfast.data.text.bpe import capped, train_bpe
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.sources import TextSource
from seedfast.data.text.split import TRAIN, Passage, Split, passages, split_documents, utf8_size
from seedfast.data.text.tokenizers import Tokenizer

_PIECE = 1 << 17  # characters that are encoded as one
_BATCH = 1 << 21  # characters that are encoded together


class Piece(NamedTuple):
    """Text that is encoded as one, with its split. ends: whether it is the last piece of its passage."""

    split: int
    name: str
    text: str
    ends: bool


def fill_folder(
    source: TextSource,
    folder: Path,
    *,
    kind: str,
    vocabulary: int,
    validation: float,
    given: Tokenizer | None,
) -> dict[str, Any]:
    """Fill `folder` with tokenizer.json, train.bin and validation.bin, and return the summary of them.

    kind: "characters", "bytes" or "bpe" (of `vocabulary` tokens), unless a tokenizer is `given`. validation: the part
    of the bytes that validates. Raises UserError on unusable data.
    """
    need_alphabet = kind == "characters" and given is None
    is_text = not isinstance(source, ChatSource)
    split = split_documents(source, validation, need_alphabet=need_alphabet, may_cut=is_text)
    tokenizer = given or _build(kind, vocabulary, source, split)
    notes = [*split.notes, *capped(tokenizer, vocabulary, source.title)] if kind == "bpe" and not given else split.notes
    tokenizers.save(tokenizer, folder)
    if isinstance(source, ChatSource):
        counts = dialogues.tokenise(source, split, tokenizer, folder)
    else:
        counts = _tokenise(source, split, tokenizer, folder)
    return {**counts, "size": tokenizer.size, "skipped": list(split.skipped), "notes": list(notes)}


def pieces(found: Iterable[Passage], cut: Callable[[str], int]) -> Iterator[Piece]:
    """Passages in pieces of a bounded size. cut: returns a position where a cut changes no token, or 0."""
    for split, name, texts in found:
        held, limit = "", _PIECE
        for text in texts:
            for start in range(0, len(text), _PIECE):
                held += text[start : start + _PIECE]
                if len(held) > limit:
                    place = cut(held)
                    if place:
                        yield Piece(split, name, held[:place], False)
                    held = held[place:]
                    # No position found: search again when the text has doubled, to avoid quadratic rescanning.
                    limit = _PIECE if place else 2 * len(held)
        yield Piece(split, name, held, True)


def _build(kind: str, vocabulary: int, source: TextSource, split: Split) -> Tokenizer:
    if kind == "characters":
        return tokenizers.Characters(split.alphabet)
    if kind == "bytes":
        return tokenizers.Bytes()
    training = (passage for passage in passages(source, split) if passage.split == TRAIN)
    texts = (piece.text for piece in pieces(training, lambda text: next(tokenizers.safe_cuts(text), 0)))
    return train_bpe(texts, total=split.bytes, vocabulary=vocabulary)


def _tokenise(source: TextSource, split: Split, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Write both token files: [EOT] document [EOT] document [EOT] …, or [EOT] text of a source that is one text.

    A causal model reads an end-of-text as the beginning of the text after it.
    """
    kind = token_type(tokenizer.size)
    end = np.array([tokenizer.end_of_text], np.uint32)
    counts = [{"documents": 0, "bytes": 0, "tokens": 0} for _ in SPLITS]
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("Tokenising", split.bytes))
        writers = [stack.enter_context(TokenWriter(folder / f"{name}.bin", kind)) for name in SPLITS]
        for writer in writers:
            writer.write(end)
        for batch in _batches(pieces(passages(source, split), tokenizer.cut)):
            names = [f"the document {piece.name}" for piece in batch]
            encoded = tokenizers.encode_lossless(tokenizer, names, [piece.text for piece in batch])
            for piece, ids in zip(batch, encoded, strict=True):
                count = counts[piece.split]
                size = utf8_size(piece.text)
                count["bytes"] += size
                count["documents"] += piece.ends
                writers[piece.split].write(ids)
                if piece.ends and not source.is_one_text:
                    writers[piece.split].write(end)
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
