"""Generated images as files: a grid, a strip of frames, an animation."""

import io
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from seedfast.families.film import Film, ImageFrame, gif
from seedfast.families.generator import Samples
from seedfast.families.image.request import NO_CLASS, ImageRequest

TRACED = 8
"""Number of images whose denoising a strip and an animation show."""


def to_uint8(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8 on the CPU, with the same scale for every image."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageSamples(Samples):
    """Generated images.

    images_NCSS: uint8; of an interpolation, the frames of each row. names: the class of each image, None for the null
    label. frames_FNCSS: uint8, the first images on their way from noise, or from one end of the interpolation to the
    other. way: of each frame on the way from noise, the step and the network evaluations until then.
    """

    printable: ClassVar[bool] = False

    images_NCSS: Tensor
    names: tuple[str | None, ...]
    frames_FNCSS: Tensor | None
    strip: bool
    gif: bool
    individual: bool
    columns: int | None
    interpolates: bool = False
    way: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(
        images: Sequence[Tensor],
        traced: Sequence[Sequence[Tensor]],
        way: tuple[tuple[int, int], ...],
        labels: Sequence[int],
        to_labels: Sequence[int],
        classes: Sequence[str],
        request: ImageRequest,
    ) -> "ImageSamples":
        """Samples from the images of each frame, and from the first ones on their way from noise, by batch.

        to_labels: the label that each label goes to in an interpolation.
        """
        ends = ((label, to_labels[label]) for label in labels)
        on_the_way = [torch.cat(step) for step in zip(*traced, strict=True)]
        shown = [frame[:TRACED] for frame in images] if request.interpolates else on_the_way
        return ImageSamples(
            images_NCSS=torch.stack(list(images), dim=1).flatten(0, 1),
            names=tuple(_name(*pair, weight, classes) for pair in ends for weight in request.weights),
            frames_FNCSS=torch.stack(shown) if shown else None,
            strip=request.strip > 0,
            gif=request.gif,
            individual=request.individual,
            columns=request.columns or (len(images) if request.interpolates else None),
            interpolates=request.interpolates,
            way=() if request.interpolates else way,
        )

    def __str__(self) -> str:
        size = "×".join(str(length) for length in self.images_NCSS.shape[2:])
        classes = sorted({name for name in self.names if name is not None})
        return f"{len(self.names)} images of {size} pixels" + (f" ({', '.join(classes)})" if classes else "")

    def __repr__(self) -> str:
        return f"<{self}>"

    def _repr_png_(self) -> bytes:
        """The grid in a notebook."""
        return _png(self._grid())

    def show(self, console: Console) -> None:
        """Print a line about the images."""
        console.print(str(self))

    def _grid(self) -> Tensor:
        return image_grid(self.images_NCSS, self._columns)

    @property
    def _columns(self) -> int:
        return self.columns or _side(self.names)

    def files(self) -> dict[str, bytes]:
        """grid.png and, with classes, grid.txt; on request strip.png, an animation and each image."""
        files = {"grid.png": _png(self._grid())}
        if any(self.names):
            files["grid.txt"] = self._class_list(self._columns).encode()
        if self.frames_FNCSS is not None and self.strip:
            rows_NFCSS = self.frames_FNCSS.transpose(0, 1)
            files["strip.png"] = _png(image_grid(rows_NFCSS.flatten(0, 1), columns=rows_NFCSS.shape[1]))
        if self.frames_FNCSS is not None and self.gif:
            name = "interpolation.gif" if self.interpolates else "denoising.gif"
            files[name] = _gif([image_grid(frame, _side(frame)) for frame in self.frames_FNCSS])
        return files | (self._each() if self.individual else {})

    @property
    def films(self) -> list[Film]:
        """The frames of the first images, as one film."""
        if self.frames_FNCSS is None:
            return []
        grids = [_png(image_grid(frame, _side(frame))) for frame in self.frames_FNCSS]
        numbers = self.way or [(number, None) for number in range(len(grids))]
        return [tuple(ImageFrame(step, png, count) for png, (step, count) in zip(grids, numbers, strict=True))]

    def _class_list(self, columns: int) -> str:
        """The classes in each row of the grid, such as "2 × a, 2 × b"."""
        rows = [self.names[start : start + columns] for start in range(0, len(self.names), columns)]
        lines = [", ".join(f"{len(list(same))} × {name}" for name, same in groupby(row)) for row in rows]
        return "".join(f"{line}\n" for line in lines)

    def _each(self) -> dict[str, bytes]:
        """Each image as a file that is named after its number and class."""
        files = {}
        for number, (image, name) in enumerate(zip(self.images_NCSS, self.names, strict=True)):
            suffix = f"_{''.join(c if c.isalnum() else '-' for c in name)}" if name else ""
            files[f"sample_{number:04}{suffix}.png"] = _png(image)
        return files


def _name(label: int, to_label: int, weight: float, classes: Sequence[str]) -> str | None:
    """The class of an image, None for the null label; "a→b" between two classes."""
    names = [classes[each] if each < len(classes) else None for each in (label, to_label)]
    if weight in (0, 1) or label == to_label:
        return names[weight == 1]
    return "→".join(name or NO_CLASS for name in names)


def _side(images: Sized) -> int:
    """The columns of a grid that is about as wide as high."""
    return math.ceil(math.sqrt(len(images)))


def image_grid(images_NCSS: Tensor, columns: int) -> Tensor:
    """Images in rows of `columns`, with a margin of one pixel, uint8 [C, H, W]."""
    count, channels, size, _ = images_NCSS.shape
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * (size + 1) + 1, columns * (size + 1) + 1), 64, dtype=torch.uint8)
    for number, image in enumerate(images_NCSS):
        top, left = (1 + place * (size + 1) for place in divmod(number, columns))
        sheet[:, top : top + size, left : left + size] = image
    return sheet


def to_pil(pixels_CHW: Tensor) -> Image.Image:
    """Pixels, uint8 [C, H, W], as an image of Pillow, grey or in colour."""
    values = pixels_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _png(pixels_CHW: Tensor) -> bytes:
    buffer = io.BytesIO()
    to_pil(pixels_CHW).save(buffer, "PNG")
    return buffer.getvalue()


def _gif(frames: Sequence[Tensor]) -> bytes:
    """An animation that shows its last frame for two seconds."""
    images = [
        to_pil(frame).resize((frame.shape[2] * 2, frame.shape[1] * 2), Image.Resampling.NEAREST) for frame in frames
    ]
    return gif(images, [120] * (len(images) - 1) + [2000])
