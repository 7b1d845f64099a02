"""Small folders of images of arbitrary pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from seedfast.data.image.config import ImageData


def write_image(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    """Write an image of arbitrary pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def image_data(folder: Path, /, **options: object) -> ImageData:
    """The configuration of a folder of 8×8 grey images."""
    base = ImageData(path=str(folder), size=8, channels=1, validation=0.25)
    return replace(base, **options)  # type: ignore[arg-type]
