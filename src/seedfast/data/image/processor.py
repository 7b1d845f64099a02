"""Image processors: from an image to the pixels of an encoder, by a centre crop or as a pretrained model needs it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from seedfast import huggingface
from seedfast.data.image.decode import PixelArray, decoding, to_pixels, upright
from seedfast.errors import UserError
from seedfast.files import to_json

FILE = "preprocessor_config.json"
"""The file name of image processors in transformers."""


class Processor(Protocol):
    """Maps an image to uint8 [channels, size, size]. mean, std: of each channel, for the normalisation that follows."""

    @property
    def size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    def __call__(self, image: Image.Image) -> PixelArray:
        """The pixels. Raises ImageError."""
        ...

    def files(self) -> dict[str, str]:
        """The files of this processor, which `load` reads: name → contents."""
        ...


@dataclass(frozen=True)
class CenterCropResize:
    """The centre square, resized."""

    size: int
    channels: int

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.5,) * self.channels

    @property
    def std(self) -> tuple[float, ...]:
        return (0.5,) * self.channels

    def __call__(self, image: Image.Image) -> PixelArray:
        return to_pixels(image, self.size, self.channels)

    def files(self) -> dict[str, str]:
        return {FILE: to_json({"image_processor_type": "seedfast", "size": self.size, "channels": self.channels})}


class PretrainedProcessor:
    """An image processor of transformers without its rescaling and normalisation, which the network performs.

    The pixels can therefore be stored as bytes. Its input is upright and opaque, as for `to_pixels`.
    """

    def __init__(self, processor: Any) -> None:
        """Raises UserError unless it outputs squares of three channels and rescales by 1/255."""
        self._processor = processor
        values = processor.to_dict()
        if not values.get("do_rescale", True) or abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            raise UserError("This image processor does not scale pixels to [0, 1], which is the only supported scale.")
        normalises = values.get("do_normalize", True)
        self.mean = tuple(map(float, values["image_mean"])) if normalises else (0.0,) * 3
        self.std = tuple(map(float, values["image_std"])) if normalises else (1.0,) * 3
        shape = self._run(Image.new("RGB", (640, 480))).shape
        if shape[0] != 3 or shape[1] != shape[2]:
            raise UserError(f"This image processor outputs images of the shape {shape}, not squares of three channels.")
        self.channels, self.size = shape[0], shape[1]

    def _run(self, image: Image.Image) -> PixelArray:
        pixels = self._processor(image, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.asarray(pixels).round().clip(0, 255).astype(np.uint8)

    def __call__(self, image: Image.Image) -> PixelArray:
        with decoding():
            return self._run(upright(image).convert("RGB"))

    def files(self) -> dict[str, str]:
        return {FILE: to_json(json.loads(self._processor.to_json_string()))}


def pretrained(name: str) -> PretrainedProcessor:
    """The image processor of a vision model, by folder or hub name. Raises UserError if it could not be loaded."""
    read = huggingface.transformers().AutoImageProcessor.from_pretrained
    # Always Pillow's kernels: other installed libraries resize to other pixels.
    processor = huggingface.fetch(
        "The image processor", name, lambda source, **where: read(source, backend="pil", **where)
    )
    return PretrainedProcessor(processor)


def load(folder: Path) -> Processor:
    """The processor saved in `folder`. Raises UserError if there is none."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"There is no image processor in {folder}: it should hold a file {FILE}.")
    values = json.loads(path.read_text("utf-8"))
    if values.get("image_processor_type") == "seedfast":
        return CenterCropResize(values["size"], values["channels"])
    return pretrained(str(folder))
