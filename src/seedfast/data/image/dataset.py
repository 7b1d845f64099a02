"""Images in memory-mapped files, and the assets that a trained model needs of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from seedfast.data.dataset import Batch, Corpus, stored_assets
from seedfast.data.image.decode import PixelArray
from seedfast.files import to_json


@dataclass(frozen=True)
class ImageAssets:
    """Data-derived values stored in every checkpoint of an image model.

    size: height and width. channels: 1 or 3. classes: their names, in the order of the labels. counts: the number of
    training images of each class.
    """

    size: int
    channels: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]

    def save(self, folder: Path) -> None:
        """Write images.json into an existing folder."""
        (folder / "images.json").write_text(to_json(asdict(self)), "utf-8")

    @staticmethod
    def load(folder: Path) -> "ImageAssets":
        """The assets that `save` wrote. Raises UserError if the folder has none."""
        values = stored_assets(folder, "images.json", "image")
        return ImageAssets(values["size"], values["channels"], tuple(values["classes"]), tuple(values["counts"]))


class ImageDataset:
    """One split: rows of a memory-mapped array of all pixels, with a label and a caption for each image.

    pixels_MCSS: uint8. rows: the split's rows in it. labels: of each image, int. captions: of each image.
    """

    def __init__(
        self, pixels_MCSS: PixelArray, rows: Sequence[int], labels: Sequence[int], captions: Sequence[str]
    ) -> None:
        self._pixels_MCSS, self._rows_N = pixels_MCSS, np.array(rows, np.int64)
        self.labels_N = torch.tensor(labels, dtype=torch.int64)
        self.captions = captions

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels_N)

    def batch(self, ids: list[int]) -> Batch:
        """{"pixels": uint8 [B, C, S, S], "labels": int64 [B]}."""
        return {"pixels": torch.from_numpy(self._pixels_MCSS[self._rows_N[ids]]), "labels": self.labels_N[ids]}


@dataclass(frozen=True)
class ImageCorpus(Corpus):
    """A corpus of images. skipped: the images that were left out, each with its reason."""

    skipped: tuple[str, ...] = ()
