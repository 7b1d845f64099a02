"""Captions in the cache, in two stages: pixels, which depend on pictures and processor alone, and tokens.

So another vocabulary reads no picture again, and features are computed once for each set of pixels.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seedfast.console import Bar, listed, say
from seedfast.data.cache import cached_folder, file_digests
from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus, Captions
from seedfast.data.caption.sources import CaptionSource
from seedfast.data.dataset import Fingerprint
from seedfast.data.fingerprint import hash_files
from seedfast.data.image.decode import DECODE_ERRORS
from seedfast.data.image.glyphs import BLANK
from seedfast.data.image.processor import Processor
from seedfast.data.image.split import SPLITS, assign_splits
from seedfast.data.text import tokenizers
from seedfast.data.text.bpe import train_bpe
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.files import to_json

_FORMAT = 1  # of the prepared data: raise it when the same input is prepared differently


@dataclass(frozen=True)
class Pixels:
    """The first stage: the folder that holds it, what it was made of, and what was left out."""

    source: CaptionSource
    processor: Processor
    folder: Path
    identity: Mapping[str, Any]
    skipped: tuple[str, ...]

    @staticmethod
    def of(source: CaptionSource, processor: Processor) -> "Pixels":
        """Read all pictures, or take their pixels from the cache. What is left out is said."""
        contents = hash_files(source.root, seen := source.signatures())
        identity = {
            "format": _FORMAT, "contents": contents, "source": source.identity(), "files": processor.files(),
            "skipped": source.skipped,
        }  # fmt: skip
        folder, facts = cached_folder(
            _key(identity), lambda attempt: _read(source, contents, seen, processor, attempt), kind="pixels"
        )
        # A face's space draws nothing that could be missed.
        if missed := [name for name in facts["skipped"] if not name.endswith(f"({BLANK})")]:
            say(f"Left out of {source.title}: {listed(missed)}.")
        return Pixels(source, processor, folder, identity, tuple(facts["skipped"]))

    def captioned(
        self, *, tokenizer: Tokenizer | None, vocabulary: int, validation: float, context: int
    ) -> CaptionCorpus:
        """The second stage: the corpus, whose captions are encoded or come from the cache.

        tokenizer: None learns a byte-level BPE of `vocabulary` tokens on the training captions.
        """
        identity = {
            **self.identity,
            "validation": validation,
            "tokenizer": vocabulary if tokenizer is None else tokenizers.digest(tokenizer),
        }
        folder, _ = cached_folder(
            _key(identity),
            lambda attempt: _encode(self.source.title, self.folder, tokenizer, vocabulary, validation, attempt),
            kind="captions",
        )
        return self._corpus(folder, context)

    def _corpus(self, folder: Path, context: int) -> CaptionCorpus:
        """The examples of both sides, from the folders of both stages."""
        index = json.loads((folder / "index.json").read_text("utf-8"))
        tokenizer = tokenizers.load(folder)
        shape = (len(index["roles"]), self.processor.channels, self.processor.size, self.processor.size)
        pixels_MCSS = np.memmap(self.folder / "pixels.bin", np.uint8, mode="r", shape=shape)
        bounds = np.concatenate([[0], np.load(folder / "lengths.npy").cumsum()])
        flat = np.load(folder / "tokens.npy")
        if cut := int((np.diff(bounds) >= context).sum()):
            say(
                f"{cut:,} of {len(bounds) - 1:,} captions of {self.source.title} are longer than context={context} "
                "tokens with their end, and are cut there."
            )
        tokens: list[list[npt.NDArray[np.uint32]]] = []
        place = 0
        for captions in index["captions"]:
            tokens.append([flat[bounds[place + i] : bounds[place + i + 1]] for i in range(len(captions))])
            place += len(captions)
        split: dict[str, Captions] = {}
        for name in SPLITS:
            rows = [row for row, role in enumerate(index["roles"]) if role == name]
            split[name] = Captions(
                pixels_MCSS, rows, [index["captions"][row] for row in rows], [tokens[row] for row in rows],
                [index["names"][row] for row in rows], tokenizer.end_of_text,
            )  # fmt: skip
        pixels = file_digests(self.folder)
        identity = {"pixels": pixels, "captions": file_digests(folder), "context": context}
        return CaptionCorpus(
            train=split["train"],
            validation=split["validation"],
            assets=CaptionAssets(tokenizer, self.processor, context, split["train"].captions),
            fingerprint=Fingerprint(hashlib.sha256(to_json(identity).encode()).hexdigest(), self.identity["contents"]),
            pixels=pixels["pixels.bin"],
            skipped=self.skipped,
        )


def _key(identity: Mapping[str, Any]) -> str:
    """The key of prepared data: it depends on everything that shapes them."""
    return hashlib.sha256(to_json(identity).encode()).hexdigest()[:32]


def _read(
    source: CaptionSource, contents: Mapping[str, str], seen: Mapping[str, Any], processor: Processor, folder: Path
) -> dict[str, Any]:
    """Fill `folder` with the pixels of all images that can be read, and their index; returns what was left out."""
    index: dict[str, list[Any]] = {"names": [], "keys": [], "roles": [], "captions": []}
    skipped = list(source.skipped)
    with (folder / "pixels.bin").open("xb") as file, Bar("Reading images", len(source.names)) as bar:
        for name, key, captions, role, opens in source.images(contents):
            said = [caption for caption in captions if caption.strip()]
            if not said:
                skipped.append(f"{name} (no caption)")
                continue
            try:
                with opens(processor.size) as image:
                    pixels = processor(image).tobytes()
            except DECODE_ERRORS as error:
                skipped.append(f"{name} ({_reason(error)})")
                continue
            file.write(pixels)
            for part, value in zip(index, (name, key, role, said), strict=True):
                index[part].append(value)
            bar.advance(1)
    if source.signatures() != seen:
        raise UserError(f"The data in {source.title} changed while they were being read: start again.")
    if len(index["names"]) < 2:
        raise UserError(f"{source.title} holds {len(index['names']) or 'no'} usable images: {listed(skipped)}.")
    (folder / "index.json").write_text(to_json(index), "utf-8")
    return {"skipped": skipped}


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return " ".join(str(error).split())[:80] or type(error).__name__


def _encode(
    title: str, pixels: Path, given: Tokenizer | None, vocabulary: int, validation: float, folder: Path
) -> dict[str, Any]:
    """Choose the sides of the split, learn the tokenizer on the training captions, and encode all of them."""
    index = json.loads((pixels / "index.json").read_text("utf-8"))
    roles = assign_splits(index["keys"], index["roles"], validation)
    for split in SPLITS:
        if split not in roles:
            raise UserError(f"{title} has no image in its {split} split: bring more.")
    flat = [[" ".join(caption.split()) for caption in each] for each in index["captions"]]
    tokenizer = given
    if tokenizer is None:
        texts = [caption for each, role in zip(flat, roles, strict=True) if role == "train" for caption in each]
        tokenizer = train_bpe(texts, total=sum(map(len, texts)), vocabulary=vocabulary, title=title)
    tokenizers.save(tokenizer, folder)
    (folder / "index.json").write_text(to_json({"roles": roles, "captions": flat, "names": index["names"]}), "utf-8")
    ids = tokenizer.encode_many([caption for each in flat for caption in each])
    np.save(folder / "tokens.npy", np.concatenate(ids).astype(np.uint32))
    np.save(folder / "lengths.npy", np.array([len(each) for each in ids], np.int64))
    return {}
