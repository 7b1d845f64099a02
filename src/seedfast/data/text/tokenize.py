"""From documents to token files. Everything streams: no whole text, and no whole array of ids, is held in memory."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seedfast.console import Bar, say
from seedfast.data.cache import TokenWriter, cached_folder, token_type
from seedfast.data.prepare import SPLITS, json_digest
from seedfast.data.text import dialogues, tokenizers
from seedfast.data.text.bpe import BUDGET, capped, train_bpe
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.sources import TextSource
from seedfast.data.text.split import TRAIN, Passage, Split, passages, split_documents, utf8_size
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError

_FORMAT = 2  # version of the prepared data: increase it when the same input is prepared differently
_PIECE = 1 << 17  # characters that are encoded as one
_BATCH = 1 << 21  # characters that are encoded together


class Piece(NamedTuple):
    """Text that is encoded as one, with its split. ends: whether it is the last piece of its passage."""

    split: int
    name: str
    text: str
    ends: bool


def reading(source: TextSource, field: str) -> dict[str, Any]:
    """What besides the contents of its files decides the documents of a source, as JSON: a part of every cache key.

    field: that of the text, in rows.
    """
    return {
        "format": _FORMAT,
        "plain": source.is_one_text,
        "field": field,
        "dialogues": isinstance(source, ChatSource),
        **({"split": "given"} if source.has_split else {}),
    }


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
    split = split_documents(source, validation, need_alphabet=need_alphabet, may_cut=_may_cut(source))
    tokenizer = given or build(kind, vocabulary, [(source, split)])
    notes = [*split.notes, *capped(tokenizer, vocabulary, source.title)] if kind == "bpe" and not given else split.notes
    tokenizers.save(tokenizer, folder)
    counts = _write(source, split, tokenizer, folder)
    return {**counts, "size": tokenizer.size, "skipped": list(split.skipped), "notes": list(notes)}


def fill_shard(source: TextSource, folder: Path, *, validation: float, tokenizer: Tokenizer) -> dict[str, Any]:
    """Fill `folder` with the tokens of one shard, which is split by the hashes of its documents; the same summary."""
    split = split_documents(source, validation, may_cut=_may_cut(source), by_hash=True)
    return {**_write(source, split, tokenizer, folder, is_shard=True), "skipped": list(split.skipped)}


Sample = Callable[[], Iterator[str]]
"""The texts, at most `BUDGET` characters, that a tokenizer is learned from where a source is too large to be read."""


def learned_tokenizer(
    sources: Sequence[TextSource],
    *,
    fields: Sequence[str],
    kind: str,
    vocabulary: int,
    validation: float,
    samples: Mapping[int, Sample] | None = None,
) -> Tokenizer:
    """One tokenizer for several sources, learned from the training split of each. It is kept in the cache.

    fields: that of the text in the rows of each source. samples: of the sources, by their number, that are not read as
    a whole. Raises UserError for an alphabet of characters with some of them, for which all documents would have to be
    read.
    """
    if kind == "bytes":
        return tokenizers.Bytes()
    samples = samples or {}
    if kind == "characters" and samples:
        raise UserError(
            "data.tokenizer=characters has to read everything first, and data.by_shard reads no more than is needed: "
            "choose bpe, bytes or a pretrained tokenizer."
        )
    options = {"kind": kind, "vocabulary": vocabulary, "validation": validation, "sampled": sorted(samples)}
    identity = {
        **options,
        "contents": [source.contents for source in sources],
        "reading": [reading(source, field) for source, field in zip(sources, fields, strict=True)],
    }

    def fill(folder: Path) -> dict[str, Any]:
        needed = kind == "characters"
        splits = [
            (each, split_documents(each, validation, need_alphabet=needed, may_cut=_may_cut(each)))
            for number, each in enumerate(sources)
            if number not in samples
        ]
        tokenizer = build(kind, vocabulary, splits, samples.values())
        tokenizers.save(tokenizer, folder)
        return {"notes": capped(tokenizer, vocabulary, title) if kind == "bpe" else []}

    title = " and ".join(source.title for source in sources)
    folder, summary = cached_folder(json_digest(identity)[:32], fill, kind="tokenizers", title=title)
    for note in summary["notes"]:
        say(note)
    return tokenizers.load(folder)


def _may_cut(source: TextSource) -> bool:
    """Whether a document can be divided between the splits; a chat cannot."""
    return not isinstance(source, ChatSource)


def _write(
    source: TextSource, split: Split, tokenizer: Tokenizer, folder: Path, *, is_shard: bool = False
) -> dict[str, Any]:
    """Write the tokens of both splits; returns their counts."""
    if isinstance(source, ChatSource):
        return dialogues.tokenise(source, split, tokenizer, folder, is_shard=is_shard)
    return _tokenise(source, split, tokenizer, folder)


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


def build(
    kind: str, vocabulary: int, splits: Sequence[tuple[TextSource, Split]], samples: Collection[Sample] = ()
) -> Tokenizer:
    """A tokenizer of the kind "characters", "bytes" or "bpe", learned from the training splits of some sources."""
    if kind == "characters":
        return tokenizers.Characters("".join(sorted({letter for _, split in splits for letter in split.alphabet})))
    if kind == "bytes":
        return tokenizers.Bytes()
    found = (passage for source, split in splits for passage in passages(source, split) if passage.split == TRAIN)
    texts = chain(learning_texts(found), *(sample() for sample in samples))
    total = sum(split.bytes for _, split in splits) + BUDGET * len(samples)
    return train_bpe(texts, total=total, vocabulary=vocabulary)


def learning_texts(found: Iterable[Passage]) -> Iterator[str]:
    """The texts of passages in pieces of a bounded size, from which a tokenizer is learned."""
    return (piece.text for piece in pieces(found, lambda text: next(tokenizers.safe_cuts(text), 0)))


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
