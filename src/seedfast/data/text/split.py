"""The split: which documents are trained on and which validate, found in one pass over all text."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seedfast.console import abbreviate
from seedfast.data.prepare import SPLITS
from seedfast.data.split import Integers, far_notice, hold_out, is_far, is_too_small
from seedfast.data.text.sources import TextSource
from seedfast.derivation import derive
from seedfast.errors import UserError

TRAIN, VALIDATION, SKIPPED, CUT = 0, 1, 2, 3

_FEW = 1e-4
"""Copies that hold less than this part of the bytes, such as the shortest files of source code, are left alone."""


@dataclass(frozen=True)
class Split:
    """The assignment of documents to splits.

    assigned: TRAIN, VALIDATION, SKIPPED or CUT for each document, uint8. boundaries: of each document that is CUT, by
    its number, the character at which validation begins. bytes: size of all usable documents in UTF-8. skipped: what
    was left out, each with the reason. notes: what is to be reported about the split. alphabet: all characters, sorted,
    if requested.
    """

    assigned: npt.NDArray[np.uint8]
    boundaries: Mapping[int, int]
    bytes: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    alphabet: str


class Passage(NamedTuple):
    """A document, or a part of one that is cut, with its split: TRAIN or VALIDATION."""

    split: int
    name: str
    texts: Iterable[str]


class _Sizes(NamedTuple):
    """Of each document: its bytes (0 if it is unusable), its characters, the hash of its key, that of its content, and
    the split that the source gives it (-1: none)."""

    bytes: Integers
    characters: Integers
    ranks: Integers
    contents: Integers
    given: Integers


def split_documents(
    source: TextSource, validation: float, *, need_alphabet: bool = False, may_cut: bool = True, by_hash: bool = False
) -> Split:
    """Read everything once: which documents are usable, their sizes, and their splits.

    validation: the part of the bytes that validates; 0: none. may_cut: whether a document can be divided. by_hash:
    whether the hash of a document alone decides, as for a shard, which is split without the others. Raises UserError if
    no document is usable, except for a shard.
    """
    columns = tuple(array("q") for _ in _Sizes._fields)
    skipped = list(source.skipped)
    alphabet = np.zeros(0x110000 if need_alphabet else 0, bool)
    for document in source.documents():
        size, characters, reason = 0, 0, "empty"
        content = hashlib.blake2b(digest_size=8)
        try:
            for text in document.texts:
                encoded = text.encode()
                size += len(encoded)
                characters += len(text)
                content.update(encoded)
                if need_alphabet:
                    alphabet[np.frombuffer(text.encode("utf-32-le"), "<u4")] = True
        except (UnicodeDecodeError, OSError) as error:
            size, reason = 0, "not UTF-8" if isinstance(error, ValueError) else "unreadable"
        if size == 0:
            if source.is_one_text:
                raise UserError(f"The file {source.title} is {reason}: name a file of text in UTF-8.")
            skipped.append(f"{document.name} ({reason})")
        rank = derive(0, "validation split", document.key)
        given = -1 if document.split is None else SPLITS.index(document.split)
        values = size, characters, rank, _signed(content.digest()), given
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    sizes = _Sizes(*(np.frombuffer(column, np.int64) for column in columns))
    if not sizes.bytes.any() and not by_hash:
        besides = f" (besides {abbreviate(skipped)})" if skipped else ""
        raise UserError(f"{source.title} holds no usable documents{besides}: add text.")
    assigned, notes = _by_hash(sizes, validation, may_cut) if by_hash else _assign(source, sizes, validation, may_cut)
    cut = np.flatnonzero(assigned == CUT).tolist()
    return Split(
        assigned=assigned,
        # As usual in the field: the first int(0.9 n) characters train.
        boundaries={number: int(int(sizes.characters[number]) * (1 - validation)) for number in cut},
        bytes=int(sizes.bytes.sum()),
        skipped=tuple(skipped),
        notes=tuple(notes),
        alphabet=np.flatnonzero(alphabet).astype("<u4").tobytes().decode("utf-32-le"),
    )


def _by_hash(sizes: _Sizes, validation: float, may_cut: bool) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """The split of each document by its content, or (rows of prompts, which are not cut) by its key, without notes.

    A document validates if its hash is among the first `validation` of all hashes, so equal ones are in one split. A
    split that the source gives stays as it is.
    """
    hashes_D = sizes.contents if may_cut else sizes.ranks
    split_D = np.where(hashes_D < _bound(validation), VALIDATION, TRAIN)
    split_D = np.where(sizes.given < 0, split_D, sizes.given)
    return np.where(sizes.bytes > 0, split_D, SKIPPED).astype(np.uint8), []


def _bound(validation: float) -> int:
    """The 64-bit hash, with sign, below which a document validates."""
    return int(validation * 2.0**53) * 2**11 - 2**63


def training_passages(source: TextSource, validation: float, may_cut: bool) -> Iterator[Passage]:
    """The training documents of a shard, without reading more of it than is asked for, except a plain text."""
    if source.has_plain_texts:
        split = split_documents(source, validation, may_cut=may_cut, by_hash=True)
        yield from (passage for passage in passages(source, split) if passage.split == TRAIN)
        return
    for document in source.documents():
        texts = tuple(document.texts)
        rank = content_hash(texts) if may_cut else derive(0, "validation split", document.key)
        if document.split == SPLITS[TRAIN] or (document.split is None and rank >= _bound(validation)):
            yield Passage(TRAIN, document.name, texts)


def content_hash(texts: Iterable[str]) -> int:
    """The 64-bit hash, with sign, of a document's text."""
    return _signed(hashlib.blake2b("".join(texts).encode(), digest_size=8).digest())


def _signed(digest: bytes) -> int:
    return int.from_bytes(digest, "little", signed=True)


def _assign(
    source: TextSource, sizes: _Sizes, validation: float, may_cut: bool
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """The split of each document, and what is to be reported about it.

    A split that the source gives stays as it is. Other documents of one key (the rows of a prompt) or of one content
    are a group, which `hold_out` assigns to one split.
    If the result is far from the wanted part, the rows of a group larger than that are assigned one by one. If still
    too little validates, documents larger than the wanted part are cut, as a single text is.
    """
    usable = np.flatnonzero(sizes.bytes)
    assigned = np.full(len(sizes.bytes), SKIPPED, np.uint8)
    assigned[usable] = CUT if source.is_one_text and validation else TRAIN
    unit = "documents" if may_cut else "examples"
    has_given = sizes.given[usable] >= 0
    given = usable[has_given]
    assigned[given] = sizes.given[given]
    usable, notes = usable[~has_given], _given_notice(source, sizes, given, unit)
    if source.is_one_text or not validation or not len(usable):
        return assigned, notes
    bytes_D, contents_D = sizes.bytes[usable], sizes.contents[usable]
    total = int(bytes_D.sum())
    ranks_D = sizes.ranks[usable]
    _, first, place_D = np.unique(contents_D, return_index=True, return_inverse=True)
    if may_cut and total - int(bytes_D[first].sum()) > _FEW * total:
        ranks_D = ranks_D[first][place_D]  # a copy has the key of the first document of its content
        notes.append(
            f"{len(usable) - len(first):,} of {len(usable):,} {unit} of {source.title} are copies of others: equal "
            f"{unit} are in the same split."
        )
    held_D = _hold_out_groups(bytes_D, ranks_D, validation)
    if is_far(bytes_D[held_D].sum(), total, validation):
        large_D = _group_sizes(bytes_D, ranks_D) > validation * total
        own = {content: derive(0, "validation split", content) for content in set(contents_D[large_D].tolist())}
        rows_D = np.array([own.get(c, rank) for c, rank in zip(contents_D.tolist(), ranks_D.tolist(), strict=True)])
        if len(np.unique(rows_D)) > len(np.unique(ranks_D)):
            ranks_D, held_D = rows_D, _hold_out_groups(bytes_D, rows_D, validation)
            notes.append(
                f"{large_D.sum():,} of {len(usable):,} {unit} of {source.title} share a prompt with so many others "
                "that they are split one by one: validation prompts are trained on too."
            )
    assigned[usable[held_D]] = VALIDATION
    cut = usable[bytes_D > validation * total]
    if may_cut and len(cut) and is_too_small(bytes_D[held_D].sum(), total, validation):
        assigned[usable] = TRAIN
        assigned[cut] = CUT
        return assigned, [*notes, _cut_notice(source, set(cut.tolist()), validation)]
    why = f"whole {unit} validate"
    return assigned, notes + far_notice(source.title, int(bytes_D[held_D].sum()), total, "bytes", validation, why)


def _given_notice(source: TextSource, sizes: _Sizes, given: Integers, unit: str) -> list[str]:
    """What is to be reported about the documents of a given split."""
    if not len(given):
        return []
    train, validation = (given[sizes.given[given] == side] for side in (TRAIN, VALIDATION))
    notes = [f"{source.title} has its own split: {len(train):,} {unit} train, {len(validation):,} validate."]
    if copies := int(np.isin(sizes.contents[validation], sizes.contents[train]).sum()):
        notes.append(f"{copies:,} of the {len(validation):,} that validate are copies of {unit} that train.")
    return notes


def _hold_out_groups(bytes_D: Integers, ranks_D: Integers, validation: float) -> npt.NDArray[np.bool_]:
    """Which documents validate, bool [D]; those of equal rank are in one split."""
    ranks_G, group_D = np.unique(ranks_D, return_inverse=True)
    sizes_G = np.bincount(group_D, weights=bytes_D).astype(np.int64)
    return hold_out(sizes_G, ranks_G, validation)[group_D]


def _group_sizes(bytes_D: Integers, ranks_D: Integers) -> npt.NDArray[np.float64]:
    """The bytes of each document's group, [D]."""
    _, group_D = np.unique(ranks_D, return_inverse=True)
    sizes_G = np.bincount(group_D, weights=bytes_D)
    return np.asarray(sizes_G[group_D], np.float64)


def _cut_notice(source: TextSource, cut: set[int], validation: float) -> str:
    names = [document.name for number, document in enumerate(source.documents()) if number in cut]
    return (
        f"Whole documents of {source.title} would make a validation split that is far too small, so the last "
        f"{validation:g} of {abbreviate(names)} validates and the rest trains."
    )


def passages(source: TextSource, split: Split) -> Iterator[Passage]:
    """The passages of both splits, in the source's order."""
    for number, (document, side) in enumerate(zip(source.documents(), split.assigned.tolist(), strict=True)):
        if side == CUT:
            before, after = _cut(document.texts, split.boundaries[number])
            yield Passage(TRAIN, document.name, before)
            yield Passage(VALIDATION, document.name, after)
        elif side != SKIPPED:
            yield Passage(side, document.name, document.texts)


def _cut(texts: Iterable[str], boundary: int) -> tuple[Iterator[str], Iterator[str]]:
    """The characters 0 … boundary-1 of the concatenated texts, and the others. The first part must be read first."""
    rest = iter(texts)
    left = ""

    def before() -> Iterator[str]:
        nonlocal left
        position = 0
        for text in rest:
            yield text[: boundary - position]
            position += len(text)
            if position > boundary:
                left = text[boundary - position :]
                return

    def after() -> Iterator[str]:
        yield left
        yield from rest

    return before(), after()


def utf8_size(text: str) -> int:
    """The text's length in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
