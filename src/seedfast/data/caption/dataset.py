"""Images with captions as examples, and the assets of a captioner."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedfast.data.dataset import Batch, Corpus, stored_assets
from seedfast.data.image import processor as vision
from seedfast.data.image.processor import Processor
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import TokenArray, Tokenizer
from seedfast.files import to_json


@dataclass(frozen=True)
class CaptionAssets:
    """The tokenizer and image processor of a captioner: part of every checkpoint.

    context: the longest caption in tokens, including its end. references: all captions of each training image; empty
    where the data is not loaded, for checkpoints do not store them.
    """

    tokenizer: Tokenizer
    processor: Processor
    context: int
    references: Sequence[Sequence[str]] = ()

    def save(self, folder: Path) -> None:
        """Write tokenizer, image processor and captions.json into an existing folder."""
        tokenizers.save(self.tokenizer, folder)
        for name, content in self.processor.files().items():
            (folder / name).write_text(content, "utf-8")
        (folder / "captions.json").write_text(to_json({"context": self.context}), "utf-8")

    @staticmethod
    def load(folder: Path) -> "CaptionAssets":
        """The assets that `save` wrote. Raises UserError if the folder holds none."""
        context = stored_assets(folder, "captions.json", "caption")["context"]
        return CaptionAssets(tokenizers.load(folder), vision.load(folder), context)


@dataclass(frozen=True)
class MappedImages:
    """All images of a corpus, memory-mapped.

    pixels_MCSS: uint8. features_MPU: features of a frozen encoder that replace the pixels in batches, float32; None
    where the network encodes the pixels itself.
    """

    pixels_MCSS: npt.NDArray[np.uint8]
    features_MPU: npt.NDArray[np.float32] | None = None

    def pixels(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The pixels of these images, uint8 [B, C, S, S]."""
        return torch.from_numpy(self.pixels_MCSS[rows])

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        """{"features": float32 [B, P, U]} of these images where there are features, else {"pixels": uint8 …}."""
        if self.features_MPU is None:
            return {"pixels": self.pixels(rows)}
        return {"features": torch.from_numpy(self.features_MPU[rows])}


@dataclass(frozen=True, kw_only=True)
class CaptionDataset:
    """One split. An example is an image with all its captions, so no image is in two examples.

    images: the images of both splits. rows_N: this split's among them. names, captions, tokens: of each example, its
    name, the texts of its captions, and their tokens without an end. padding: the token that pads batches.
    """

    images: MappedImages
    rows_N: npt.NDArray[np.int64]
    names: Sequence[str]
    captions: Sequence[Sequence[str]]
    tokens: Sequence[Sequence[TokenArray]]
    padding: int

    def __len__(self) -> int:
        """The number of images."""
        return len(self.rows_N)

    def pixels(self, ids: Sequence[int]) -> Tensor:
        """The pixels of these examples, uint8 [B, C, S, S]."""
        return self.images.pixels(self.rows_N[list(ids)])

    def batch(self, ids: list[int]) -> Batch:
        """{"pixels": uint8 [B, C, S, S] or "features": float32 [B, P, U], "tokens": int64 [B, R, L], "lengths", "id"}.

        All captions of each image, padded to the largest number and length in this batch; lengths, int64 [B, R], are 0
        where there is no caption. id: int64 [B].
        """
        examples = [self.tokens[i] for i in ids]
        length = max(len(caption) for captions in examples for caption in captions)
        tokens_BRL = torch.full((len(ids), max(map(len, examples)), length), self.padding, dtype=torch.int64)
        lengths_BR = torch.zeros(tokens_BRL.shape[:2], dtype=torch.int64)
        for row, captions in enumerate(examples):
            for column, caption in enumerate(captions):
                tokens_BRL[row, column, : len(caption)] = torch.from_numpy(caption.astype(np.int64))
                lengths_BR[row, column] = len(caption)
        images = self.images.batch(self.rows_N[ids])
        return {**images, "tokens": tokens_BRL, "lengths": lengths_BR, "id": torch.tensor(ids)}


@dataclass(frozen=True)
class CaptionCorpus(Corpus):
    """A corpus of images with captions. pixels: the digest of all pixels. skipped: images left out, with reasons."""

    train: CaptionDataset
    validation: CaptionDataset
    assets: CaptionAssets
    pixels: str = ""
    skipped: tuple[str, ...] = ()
