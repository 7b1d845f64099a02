"""Image files as pixels: decoded, turned upright, opaque, cropped to the centre square and resized."""

import struct
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

PixelArray = npt.NDArray[np.uint8]
"""Pixels, uint8 [C, S, S]."""

DECODE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The errors of `open_image` for a file that is not an image, or only a part of one."""

_DECODER_ERRORS = (RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, struct.error)
"""Further errors that some decoders of Pillow raise on malformed bytes."""


def open_image(file: Path | str | IO[bytes]) -> Image.Image:
    """The image in a file, decoded. Raises one of `DECODE_ERRORS`."""
    try:
        image = Image.open(file)
        image.load()
    except _DECODER_ERRORS as error:
        raise ValueError(f"{error or type(error).__name__}") from error
    return image


def upright(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, its EXIF rotation applied, opaque on white. Raises one of `DECODE_ERRORS`."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # theirs have 16 bits
        raise ValueError(f"{'floating-point' if image.mode == 'F' else '32-bit'} pixels, whose range is unknown")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, which Pillow would clip at 255; its transparent value becomes transparency."""
    values = np.asarray(image, np.int64).clip(0, 65535)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def to_pixels(image: Image.Image, size: int, channels: int) -> PixelArray:
    """An image as uint8 [C, size, size]: upright, opaque on white, centre crop, resized if necessary.

    Values are scaled by their type (16 bits to 8), never by the range of values in the image.
    """
    image = upright(image).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    values = np.asarray(image, np.uint8)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)
