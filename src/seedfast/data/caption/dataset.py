"""Images with captions as examples: an image with all that was said about it, and what a captioner keeps of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seedfast.data.dataset import Batch, Corpus
from seedfast.data.image import processor as vision
from seedfast.data.image.processor import Processor
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.files import to_json


@dataclass(frozen=True)
class CaptionAssets:
    """What a captioner needs of its data for ever after.

    context: the longest caption in tokens, its end included. references: all captions of each training image, where
    the data are at hand: no checkpoint has them.
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
        """What `save` wrote. Raises UserError if the folder holds none."""
        path = folder / "captions.json"
        if not path.is_file():
            raise UserError(f"There are no caption assets in {folder}: it should hold a file captions.json.")
        context = json.loads(path.read_text("utf-8"))["context"]
        return CaptionAssets(tokenizers.load(folder), vision.load(folder), context)


class Captions:
    """One split. An example is an image with all its captions, so no two examples share an image.

    pixels_MCSS: those of all images, uint8, mapped from the disk; rows: of this split's. captions: of each as texts,
    and tokens: as ids. features_MPW: what a frozen encoder says of all images instead of their pixels, float32.
    """

    def __init__(
        self,
        pixels_MCSS: npt.NDArray[np.uint8],
        rows: Sequence[int],
        captions: Sequence[Sequence[str]],
        tokens: Sequence[Sequence[npt.NDArray[np.uint32]]],
        names: Sequence[str],
        padding: int,
        features_MPW: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.pixels_MCSS, self.rows_N, self.features_MPW = pixels_MCSS, np.array(rows), features_MPW
        self.captions, self.tokens, self.names, self.padding = captions, tokens, names, padding

    def __len__(self) -> int:
        """The number of images."""
        return len(self.rows_N)

    def seeing(self, features_MPW: npt.NDArray[np.float32]) -> "Captions":
        """The same images, by their features."""
        return Captions(
            self.pixels_MCSS, self.rows_N.tolist(), self.captions, self.tokens, self.names, self.padding, features_MPW
        )

    def pixels(self, ids: Sequence[int]) -> torch.Tensor:
        """uint8 [B, C, S, S]."""
        return torch.from_numpy(self.pixels_MCSS[self.rows_N[list(ids)]])

    def batch(self, ids: list[int]) -> Batch:
        """{"pixels": uint8 [B, C, S, S] or "features": float32 [B, P, W], "tokens": int64 [B, R, L], "lengths", "id"}.

        All captions of each image, padded to the most and the longest of this batch; lengths [B, R] are 0 where there
        is no caption. id: int64 [B].
        """
        several = [self.tokens[i] for i in ids]
        longest = max(len(tokens) for each in several for tokens in each)
        tokens_BRL = torch.full((len(ids), max(map(len, several)), longest), self.padding, dtype=torch.int64)
        lengths_BR = torch.zeros(tokens_BRL.shape[:2], dtype=torch.int64)
        for row, each in enumerate(several):
            for place, tokens in enumerate(each):
                tokens_BRL[row, place, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
                lengths_BR[row, place] = len(tokens)
        seen = (
            {"pixels": self.pixels(ids)}
            if self.features_MPW is None
            else {"features": torch.from_numpy(self.features_MPW[self.rows_N[ids]])}
        )
        return {**seen, "tokens": tokens_BRL, "lengths": lengths_BR, "id": torch.tensor(ids)}


@dataclass(frozen=True)
class CaptionCorpus(Corpus):
    """A corpus of captioned images. pixels: the digest of all its pixels. skipped: what was left out, and why."""

    pixels: str = ""
    skipped: tuple[str, ...] = ()
