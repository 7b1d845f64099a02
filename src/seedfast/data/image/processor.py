"""How a picture becomes what an encoder sees: our own way, or a pretrained model's image processor."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from seedfast import huggingface
from seedfast.data.image.sources import Pixels, pixels_of, upright
from seedfast.errors import UserError
from seedfast.files import to_json

FILE = "preprocessor_config.json"
"""What transformers calls an image processor's file."""


class Processor(Protocol):
    """A picture to uint8 [channels, size, size]. mean, std: of each channel, what is then subtracted and divided by."""

    @property
    def size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    def __call__(self, image: Image.Image) -> Pixels:
        """The pixels. Raises one of `pictures.BROKEN`."""
        ...

    def files(self) -> dict[str, str]:
        """The content of each file, by name, from which `load` makes it again."""
        ...


@dataclass(frozen=True)
class Square:
    """The middle square, scaled."""

    size: int
    channels: int

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.5,) * self.channels

    @property
    def std(self) -> tuple[float, ...]:
        return (0.5,) * self.channels

    def __call__(self, image: Image.Image) -> Pixels:
        return pixels_of(image, self.size, self.channels)

    def files(self) -> dict[str, str]:
        return {FILE: to_json({"image_processor_type": "seedfast", "size": self.size, "channels": self.channels})}


class Pretrained:
    """An image processor of transformers, up to the rescaling and normalisation, which the network does.

    So that its pixels can be kept as bytes. It sees what `pixels_of` sees: upright and opaque.
    """

    def __init__(self, processor: Any) -> None:
        """Raises UserError if it does not make squares of three channels, or does not rescale by 1/255."""
        self._processor = processor
        values = processor.to_dict()
        if not values.get("do_rescale", True) or abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            raise UserError("This image processor does not scale pixels to 0 … 1, which is not known here.")
        normalises = values.get("do_normalize", True)
        self.mean = tuple(map(float, values["image_mean"])) if normalises else (0.0,) * 3
        self.std = tuple(map(float, values["image_std"])) if normalises else (1.0,) * 3
        shape = self._run(Image.new("RGB", (640, 480))).shape
        if shape[0] != 3 or shape[1] != shape[2]:
            raise UserError(f"This image processor makes images of the shape {shape}, not squares of three channels.")
        self.channels, self.size = shape[0], shape[1]

    def _run(self, image: Image.Image) -> Pixels:
        made = self._processor(image, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.asarray(made).round().clip(0, 255).astype(np.uint8)

    def __call__(self, image: Image.Image) -> Pixels:
        return self._run(upright(image).convert("RGB"))

    def files(self) -> dict[str, str]:
        return {FILE: to_json(json.loads(self._processor.to_json_string()))}


def pretrained(name: str) -> Pretrained:
    """The image processor of a vision model, by folder or hub name. Raises UserError if it cannot be had."""
    read = huggingface.transformers().AutoImageProcessor.from_pretrained
    # Pillow's kernels, whatever else is installed: other libraries resize to other pixels.
    processor = huggingface.fetch(
        "The image processor", name, lambda source, **where: read(source, backend="pil", **where)
    )
    return Pretrained(processor)


def load(folder: Path) -> Processor:
    """The processor that was saved in `folder`. Raises UserError if there is none."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"There is no image processor in {folder}: it should hold a file {FILE}.")
    values = json.loads(path.read_text("utf-8"))
    if values.get("image_processor_type") == "seedfast":
        return Square(values["size"], values["channels"])
    return pretrained(str(folder))
