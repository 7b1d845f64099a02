"""Image files as pixels: decoded, turned upright, opaque, cropped to the centre square and resized."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

PixelArray = npt.NDArray[np.uint8]
"""Pixels, uint8 [C, S, S]."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each orientation of EXIF (JEITA CP-3451, tag 274)."""

_STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the file: run git lfs pull",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}
"""The first bytes, in lower case, of files that are often found in the place of a picture."""


class ImageError(ValueError):
    """An image that cannot be used. The message is the reason, in a few words."""


@contextmanager
def decoding() -> Iterator[None]:
    """Turn every exception of Pillow, or of an image processor, into an `ImageError` that names the reason.

    Decoders raise almost any exception on malformed bytes, also after `load`: where a picture is converted, or its EXIF
    data are parsed. Their warnings (truncated tags, large images) are silenced: an image is used, or it is named.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("missing") from None
    except UnidentifiedImageError:
        raise ImageError("not a picture") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"more than {limit:,} pixels, as a decompression bomb has: scale it down") from None
    except Exception as error:  # whatever a decoder raises
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(" ".join(reason.split())[:80] or type(error).__name__) from error


def has_image_ending(name: str) -> bool:
    """Whether a file's name ends as an image's does, in any case; a query (photo.jpg?x=1) is no part of the ending."""
    return Path(name.partition("?")[0]).suffix.lower() in Image.registered_extensions()


def open_image(file: Path | str | IO[bytes]) -> Image.Image:
    """The image in a file, decoded. Raises ImageError for a file that is not an image, or only a part of one."""
    with decoding():
        if isinstance(file, Path | str) and not stat.S_ISREG(Path(file).stat().st_mode):  # a pipe would never end
            raise ImageError("no regular file")
        try:
            image = Image.open(file)
        except UnidentifiedImageError:
            raise ImageError(_instead_of_a_picture(file)) from None
        image.load()
        return image


def _instead_of_a_picture(file: Path | str | IO[bytes]) -> str:
    """What a file that Pillow does not know is, as far as its first bytes tell."""
    if isinstance(file, Path | str):
        with Path(file).open("rb") as opened:
            start = opened.read(32)
    else:
        file.seek(0)
        start = file.read(32)
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        return "a video or HEIC: convert it to JPEG or PNG"
    return next((what for bytes_, what in _STARTS.items() if start.lower().startswith(bytes_)), "not a picture")


def upright(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, its EXIF rotation applied, opaque on white. Raises ImageError."""
    with decoding():
        if 0 in image.size:
            raise ImageError("no pixels")
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # theirs have 16 bits
            kind = "floating-point" if image.mode == "F" else "32-bit"
            raise ImageError(f"{kind} pixels, whose range is unknown")
        # Not ImageOps.exif_transpose, which also writes the EXIF data again, and fails if any other tag is malformed.
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
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

    Values are scaled by their type (16 bits to 8), never by the range of values in the image. Raises ImageError.
    """
    with decoding():
        image = upright(image).convert("L" if channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        values = np.asarray(image, np.uint8)
        return values[None] if channels == 1 else values.transpose(2, 0, 1)
