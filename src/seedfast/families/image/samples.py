"""Generated images as files: a grid, a strip, an animation."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from seedfast.families.family import Samples
from seedfast.families.image.request import ImageRequest
from seedfast.files import commit

_WRITTEN = re.compile(r"grid\.txt|strip\.png|denoising\.gif|sample_\d{4,}(_.*)?\.png")
"""What samples write beside their grid."""

SHOWN = 8
"""Of how many images a strip and an animation show the way."""


def picture_of(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8 on the CPU, by the same scale for every image."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


@dataclass(frozen=True, kw_only=True)
class ImageSamples(Samples):
    """Generated images.

    images_NCSS: uint8. names: of the classes asked for, None where none was. frames_FNCSS: the way of the first ones.
    """

    readable: ClassVar[bool] = False

    images_NCSS: Tensor
    names: tuple[str | None, ...]
    frames_FNCSS: Tensor | None
    strip: bool
    gif: bool
    individual: bool
    columns: int | None

    @staticmethod
    def of(
        made: Sequence[Tensor],
        frames: Sequence[Sequence[Tensor]],
        labels: Sequence[int],
        classes: Sequence[str],
        request: ImageRequest,
    ) -> "ImageSamples":
        """Samples from batches of images and of their frames."""
        traced = [torch.cat(moment) for moment in zip(*frames, strict=True)]
        return ImageSamples(
            images_NCSS=torch.cat(list(made)),
            names=tuple(classes[label] if label < len(classes) else None for label in labels),
            frames_FNCSS=torch.stack(traced) if traced else None,
            strip=request.strip > 0,
            gif=request.gif,
            individual=request.individual,
            columns=request.columns,
        )

    def show(self, console: Console) -> None:
        """A line about the images."""
        size = "×".join(str(side) for side in self.images_NCSS.shape[2:])
        known = sorted({name for name in self.names if name is not None})
        console.print(f"{len(self.names)} images of {size} pixels" + (f" ({', '.join(known)})" if known else ""))

    def save(self, folder: Path) -> list[Path]:
        """grid.png, with its classes in grid.txt; as they were asked for, strip.png, denoising.gif and each image.

        What stands there of other samples goes first: its labels would be taken for those of these.
        """
        for path in folder.iterdir():
            if _WRITTEN.fullmatch(path.name):
                path.unlink()
        columns = self.columns or math.ceil(math.sqrt(len(self.names)))
        files = [_write(folder / "grid.png", tiled(self.images_NCSS, columns))]
        if any(self.names):
            rows = [self.names[start : start + columns] for start in range(0, len(self.names), columns)]
            lines = [", ".join(f"{len(list(same))} × {name}" for name, same in groupby(row)) for row in rows]
            commit(folder / "grid.txt", "".join(f"{line}\n" for line in lines))
            files.append(folder / "grid.txt")
        if self.frames_FNCSS is not None and self.strip:
            rows_NFCSS = self.frames_FNCSS.transpose(0, 1)
            files.append(_write(folder / "strip.png", tiled(rows_NFCSS.flatten(0, 1), columns=rows_NFCSS.shape[1])))
        if self.frames_FNCSS is not None and self.gif:
            files.append(
                _animate(folder / "denoising.gif", [tiled(frame, min(3, len(frame))) for frame in self.frames_FNCSS])
            )
        if not self.individual:
            return files
        for number, (image, name) in enumerate(zip(self.images_NCSS, self.names, strict=True)):
            suffix = f"_{''.join(c if c.isalnum() else '-' for c in name)}" if name else ""
            files.append(_write(folder / f"sample_{number:04}{suffix}.png", image))
        return files


def tiled(images_NCSS: Tensor, columns: int) -> Tensor:
    """Images in rows of so many, with a margin of a pixel, [C, H, W]."""
    count, channels, size, _ = images_NCSS.shape
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * (size + 1) + 1, columns * (size + 1) + 1), 64, dtype=torch.uint8)
    for number, image in enumerate(images_NCSS):
        top, left = (1 + place * (size + 1) for place in divmod(number, columns))
        sheet[:, top : top + size, left : left + size] = image
    return sheet


def pillow(pixels_CHW: Tensor) -> Image.Image:
    """Pixels, uint8 [C, H, W], as a picture of Pillow, grey or coloured."""
    values = pixels_CHW.permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _write(path: Path, pixels_CHW: Tensor) -> Path:
    buffer = io.BytesIO()
    pillow(pixels_CHW).save(buffer, "PNG")
    commit(path, buffer.getvalue())
    return path


def _animate(path: Path, frames: Sequence[Tensor]) -> Path:
    """An animation that stays on its last frame for two seconds."""
    images = [
        pillow(frame).resize((frame.shape[2] * 2, frame.shape[1] * 2), Image.Resampling.NEAREST) for frame in frames
    ]
    buffer = io.BytesIO()
    durations = [120] * (len(images) - 1) + [2000]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    commit(path, buffer.getvalue())
    return path
