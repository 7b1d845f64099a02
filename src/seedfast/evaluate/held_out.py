"""What a run is validated on, as bytes: the same for every tokenizer, so that runs on the same bytes can be compared.

Text: the scored tokens of the validation split, decoded, document by document. Examples of chats lie in windows in an
order that depends on their lengths in tokens, so their answers are sorted. Images: their pixels and labels, in order.
Captions: the pixels of each image, and its captions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.data.dataset import Batch, Corpus
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.evaluate.pairing import Cut
from seedfast.loop.standard_error import document_numbers

_BATCH = 256  # examples that are read together
_SHOWN = 24  # bytes of a difference


@dataclass(frozen=True)
class Place:
    """The first place in which two sequences of documents differ. one, other: what is there, for people."""

    document: int
    byte: int
    one: str
    other: str


@dataclass(frozen=True)
class HeldOut:
    """The validation split of a corpus. Raises UserError for pairs of answers, which are no text of one kind."""

    corpus: Corpus

    @property
    def kind(self) -> str:
        """What an example is: "text", "image" or "caption"."""
        if isinstance(self.corpus.assets, TextAssets):
            return "text"
        return "caption" if isinstance(self.corpus, CaptionCorpus) else "image"

    def documents(self) -> Iterator[bytes]:
        """The bytes of each document, image or captioned image."""
        if isinstance(self.corpus.assets, TextAssets):
            return _texts(self.corpus, self.corpus.assets.tokenizer)
        return _captioned(self.corpus) if isinstance(self.corpus, CaptionCorpus) else _images(self.corpus)

    @cached_property
    def _read(self) -> tuple[str, int, int]:
        digest, size, count = hashlib.sha256(), 0, 0
        for document in self.documents():
            digest.update(len(document).to_bytes(8, "little") + document)
            size, count = size + len(document), count + 1
        return digest.hexdigest(), size, count

    @property
    def digest(self) -> str:
        """SHA-256 of all documents, each after its length."""
        return self._read[0]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._read[1]

    @property
    def count(self) -> int:
        """Documents, images or captioned images."""
        return self._read[2]

    @cached_property
    def cut(self) -> Cut:
        """How the bytes are cut into the examples of the split. Of captioned images they are those of the captions, and
        an image counts as one."""
        if isinstance(self.corpus, CaptionCorpus):
            captions = self.corpus.validation.captions
            return Cut(np.array([sum(len(text.encode()) for text in texts) for texts in captions], np.int64))
        if not isinstance(self.corpus.assets, TextAssets):
            return Cut(np.ones(len(self.corpus.validation), np.int64))
        tokenizer, sizes, contents = self.corpus.assets.tokenizer, list[int](), hashlib.sha256()
        for batch in batches_of(self.corpus):
            for ids in _scored(batch):
                sizes.append(tokenizer.byte_count(ids))
                contents.update(np.array([len(ids), *ids], "<i8").tobytes())
        documents = document_numbers(self.corpus.validation, range(len(sizes)))
        return Cut(np.array(sizes, np.int64), documents, contents.digest() if documents is None else b"")


def first_difference(one: HeldOut, other: HeldOut) -> Place | None:
    """The first document and byte in which two validation splits differ; None if they are equal."""
    left, right = one.documents(), other.documents()
    number = 0
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return None
        if a != b:
            byte = 0 if a is None or b is None else _first_byte(a, b)
            return Place(number, byte, _shown(a, byte), _shown(b, byte))
        number += 1


def _first_byte(one: bytes, other: bytes) -> int:
    shared = min(len(one), len(other))
    differs = np.frombuffer(one, np.uint8, shared) != np.frombuffer(other, np.uint8, shared)
    return int(differs.argmax()) if differs.any() else shared


def _shown(document: bytes | None, byte: int) -> str:
    if document is None:
        return "nothing: there are no more documents"
    if byte >= len(document):
        return "its end"
    return repr(document[byte : byte + _SHOWN].decode(errors="replace"))


def batches_of(corpus: Corpus) -> Iterator[Batch]:
    """All examples of the split, in order."""
    count = len(corpus.validation)
    return (
        corpus.validation.batch(list(range(start, min(start + _BATCH, count)))) for start in range(0, count, _BATCH)
    )


def _scored(batch: Batch) -> Iterator[list[int]]:
    """The scored tokens of each window."""
    return (
        tokens_L[scored_L].tolist() for tokens_L, scored_L in zip(batch["tokens"][:, 1:], batch["scored"], strict=True)
    )


def _texts(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[bytes]:
    if corpus.assets.preferences:
        raise UserError("Runs on pairs of answers have no text in common with other runs: compare their reports.")
    batches = batches_of(corpus)
    first = next(batches, None)
    if first is None:
        return iter(())
    if "documents" in first:
        return iter(sorted(chain.from_iterable(_answers(batch, tokenizer) for batch in chain([first], batches))))
    return _split(chain.from_iterable(map(_scored, chain([first], batches))), tokenizer)


def _split(windows: Iterator[list[int]], tokenizer: Tokenizer) -> Iterator[bytes]:
    """The documents of a stream of tokens, which end with an end-of-text."""
    open_: list[int] = []
    for tokens in windows:
        while tokenizer.end_of_text in tokens:
            place = tokens.index(tokenizer.end_of_text)
            yield tokenizer.decode(open_ + tokens[:place]).encode()
            open_, tokens = [], tokens[place + 1 :]
        open_ += tokens
    if open_:
        yield tokenizer.decode(open_).encode()


def _answers(batch: Batch, tokenizer: Tokenizer) -> Iterator[bytes]:
    """The scored text of each example in these windows, without special tokens, which each model has of its own."""
    special = {tokenizer.end_of_text, *tokenizer.never_generate}
    for tokens_L, scored_L, documents_L in zip(
        batch["tokens"][:, 1:], batch["scored"], batch["documents"][:, 1:], strict=True
    ):
        for document in documents_L[scored_L].unique().tolist():
            ids = tokens_L[scored_L & (documents_L == document)].tolist()
            yield tokenizer.decode([id_ for id_ in ids if id_ not in special]).encode()


def _images(corpus: Corpus) -> Iterator[bytes]:
    classes = corpus.assets.classes
    for batch in batches_of(corpus):
        for pixels_CSS, label in zip(batch["pixels"].numpy(), batch["labels"].tolist(), strict=True):
            yield f"{pixels_CSS.shape} {classes[label]} ".encode() + pixels_CSS.tobytes()


def _captioned(corpus: CaptionCorpus) -> Iterator[bytes]:
    split = corpus.validation
    for number, captions in enumerate(split.captions):
        pixels_CSS = split.pixels([number])[0].numpy()
        yield "\n".join([str(pixels_CSS.shape), *captions, ""]).encode() + pixels_CSS.tobytes()
