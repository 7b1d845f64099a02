"""Preparation of captions in the cache, in two stages: pixels, which depend on images and processor, then tokens.

Another vocabulary therefore reads no image again, and features are computed once for each set of pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.console import Bar, abbreviate, say
from seedfast.data.cache import cached_folder, file_digests
from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus, CaptionDataset, MappedImages
from seedfast.data.caption.sources import CaptionSource
from seedfast.data.dataset import Fingerprint
from seedfast.data.image.decode import ImageError
from seedfast.data.image.glyphs import BLANK
from seedfast.data.image.processor import Processor
from seedfast.data.image.split import assign_splits
from seedfast.data.prepare import SPLITS, json_digest, prepare
from seedfast.data.split import no_validation
from seedfast.data.text import tokenizers
from seedfast.data.text.bpe import capped, train_bpe
from seedfast.data.text.tokenizers import TokenArray, Tokenizer, encode_lossless
from seedfast.errors import UserError
from seedfast.files import to_json

_FORMAT = 2  # of the prepared data: raise it when the same input is prepared differently


@dataclass(frozen=True)
class PreparedImages:
    """The first stage. folder: pixels.bin and index.json. identity: all that they depend on. skipped: left out."""

    source: CaptionSource
    processor: Processor
    folder: Path
    identity: Mapping[str, Any]
    skipped: tuple[str, ...]

    @staticmethod
    def of(source: CaptionSource, processor: Processor) -> "PreparedImages":
        """Read all images, or take their pixels from the cache. Images that are left out are named on stderr."""
        options = {"format": _FORMAT, "source": source.identity(), "files": processor.files()}
        # Characters without a glyph, such as spaces, are no loss.
        prepared = prepare(
            source, options, lambda folder: _read(source, processor, folder), kind="pixels", unreported=BLANK
        )
        prepared.report()
        return PreparedImages(source, processor, prepared.folder, prepared.identity, tuple(prepared.summary["skipped"]))

    def with_captions(
        self, *, tokenizer: Tokenizer | None, vocabulary: int, validation: float, context: int
    ) -> CaptionCorpus:
        """The second stage: the corpus, with captions encoded now or taken from the cache.

        tokenizer: None learns a byte-level BPE of `vocabulary` tokens from the training captions.
        """
        identity = {
            **self.identity,
            "validation": validation,
            "tokenizer": vocabulary if tokenizer is None else tokenizers.digest(tokenizer),
        }
        folder, summary = cached_folder(
            json_digest(identity)[:32],
            lambda attempt: _encode(self.source.title, self.folder, tokenizer, vocabulary, validation, attempt),
            kind="captions",
            title=self.source.title,
        )
        for note in summary.get("notes", ()):
            say(note)
        corpus = self._corpus(folder, context)
        if not len(corpus.validation):
            why = "none of its images can validate" if validation else "data.validation is 0"
            say(no_validation(self.source.title, why))
        return corpus

    def _corpus(self, folder: Path, context: int) -> CaptionCorpus:
        """The examples of both splits, from the folders of both stages."""
        index = json.loads((folder / "index.json").read_text("utf-8"))
        tokenizer = tokenizers.load(folder)
        train, validation = self._splits(index, self._tokens(folder, index, context), tokenizer.end_of_text)
        pixels = file_digests(self.folder)
        identity = {"pixels": pixels, "captions": file_digests(folder), "context": context}
        return CaptionCorpus(
            train=train,
            validation=validation,
            assets=CaptionAssets(tokenizer, self.processor, context, train.captions),
            fingerprint=Fingerprint(json_digest(identity), self.source.contents),
            pixels=pixels["pixels.bin"],
            skipped=self.skipped,
        )

    def _tokens(self, folder: Path, index: Mapping[str, Any], context: int) -> list[list[TokenArray]]:
        """The tokens of each image's captions. The number of captions that exceed the context is reported on stderr."""
        bounds = np.concatenate([[0], np.load(folder / "lengths.npy").cumsum()])
        flat = np.load(folder / "tokens.npy")
        if too_long := int((np.diff(bounds) >= context).sum()):
            say(
                f"{too_long:,} of {len(bounds) - 1:,} captions of {self.source.title} are longer than "
                f"context={context} tokens with their end, and are cut there."
            )
        tokens: list[list[TokenArray]] = []
        first = 0
        for captions in index["captions"]:
            tokens.append([flat[bounds[first + i] : bounds[first + i + 1]] for i in range(len(captions))])
            first += len(captions)
        return tokens

    def _splits(self, index: Mapping[str, Any], tokens: list[list[TokenArray]], padding: int) -> list[CaptionDataset]:
        shape = (len(index["roles"]), self.processor.channels, self.processor.size, self.processor.size)
        images = MappedImages(np.memmap(self.folder / "pixels.bin", np.uint8, mode="r", shape=shape))
        splits = []
        for name in SPLITS:
            rows = [row for row, split in enumerate(index["roles"]) if split == name]
            splits.append(
                CaptionDataset(
                    images=images,
                    rows_N=np.array(rows, np.int64),
                    names=[index["names"][row] for row in rows],
                    captions=[index["captions"][row] for row in rows],
                    tokens=[tokens[row] for row in rows],
                    padding=padding,
                )
            )
        return splits


def _read(source: CaptionSource, processor: Processor, folder: Path) -> dict[str, Any]:
    """Write the pixels of all readable images and their index into `folder`; returns what is left out."""
    index: dict[str, list[Any]] = {"names": [], "keys": [], "roles": [], "captions": []}
    skipped = list(source.skipped)
    with (folder / "pixels.bin").open("xb") as file, Bar("Reading images", len(source.names)) as bar:
        for name, split_key, all_captions, split, load in source.images():
            captions = [caption for caption in all_captions if caption.strip()]
            if not captions:
                skipped.append(f"{name} (no caption)")
                continue
            try:
                with load(processor.size) as image:
                    pixels = processor(image).tobytes()
            except ImageError as error:
                skipped.append(f"{name} ({error})")
                continue
            file.write(pixels)
            for part, value in zip(index, (name, split_key, split, captions), strict=True):
                index[part].append(value)
            bar.advance(1)
    if not index["names"]:
        raise UserError(f"{source.title} holds no usable images: {abbreviate(skipped)}.")
    (folder / "index.json").write_text(to_json(index), "utf-8")
    return {"skipped": skipped}


def _encode(
    title: str, images: Path, tokenizer: Tokenizer | None, vocabulary: int, validation: float, folder: Path
) -> dict[str, Any]:
    """Split the images, learn the tokenizer from the training captions if there is none, and encode all captions."""
    index = json.loads((images / "index.json").read_text("utf-8"))
    splits, notes = assign_splits(index["keys"], index["roles"], validation, title=title)
    texts = [[" ".join(caption.split()) for caption in captions] for captions in index["captions"]]
    if tokenizer is None:
        train = [
            caption for captions, split in zip(texts, splits, strict=True) if split == "train" for caption in captions
        ]
        tokenizer = train_bpe(train, total=sum(map(len, train)), vocabulary=vocabulary)
        notes += capped(tokenizer, vocabulary, title)
    tokenizers.save(tokenizer, folder)
    (folder / "index.json").write_text(to_json({"roles": splits, "captions": texts, "names": index["names"]}), "utf-8")
    names = [f"a caption of {name}" for name, captions in zip(index["names"], texts, strict=True) for _ in captions]
    ids = encode_lossless(tokenizer, names, [caption for captions in texts for caption in captions])
    np.save(folder / "tokens.npy", np.concatenate(ids).astype(np.uint32))
    np.save(folder / "lengths.npy", np.array([len(each) for each in ids], np.int64))
    return {"notes": notes}
