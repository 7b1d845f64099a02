"""Images and masks that a request names, as tensors of the size that the model generates."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from seedfast.data.image.dataset import ImageAssets
from seedfast.data.image.decode import ImageError, open_image, to_pixels, upright
from seedfast.diffusion.inpainting import Known
from seedfast.errors import UserError


def given_image(path: Path, assets: ImageAssets) -> Tensor:
    """The image in a file, float32 [C, S, S] in [-1, 1]. Raises UserError if it is not readable."""
    return _scaled(_opened(path), path, assets)


def known_part(image: Path, mask: Path, assets: ImageAssets) -> Known:
    """The image outside of the white part of the mask. Raises UserError if one is not readable, or they do not fit.

    The mask is cropped and resized as the image is. A pixel is unknown if any part of it is white, so that no colour
    below the mask leaks into the known part.
    """
    picture, drawn = _opened(image), _opened(mask).convert("L")
    if drawn.size != picture.size:
        sizes = [" × ".join(map(str, each.size)) for each in (drawn, picture)]
        raise UserError(
            f"The mask {mask} has {sizes[0]} pixels and {image} has {sizes[1]}: they must be equally large."
        )
    white = drawn.point([0] * 128 + [255] * 128)
    if white.size != (assets.size, assets.size):
        white = ImageOps.fit(white, (assets.size, assets.size), Image.Resampling.BOX)
    unknown_SS = torch.from_numpy(np.array(white)) > 0
    if not unknown_SS.any() or unknown_SS.all():
        shown, what = ("white", "filled") if not unknown_SS.any() else ("black", "kept")
        raise UserError(
            f"Nothing would be {what}: the mask {mask} has no {shown} pixels within the centre square that the model "
            "generates; white is filled, black is kept."
        )
    return Known(_scaled(picture, image, assets), unknown_SS)


def _opened(path: Path) -> Image.Image:
    try:
        with open_image(path) as image:
            return upright(image)
    except ImageError as error:
        raise _unreadable(path, error) from None


def _scaled(image: Image.Image, path: Path, assets: ImageAssets) -> Tensor:
    try:
        values = to_pixels(image, assets.size, assets.channels)
    except ImageError as error:
        raise _unreadable(path, error) from None
    return torch.from_numpy(values.copy()).float() / 127.5 - 1


def _unreadable(path: Path, error: ImageError) -> UserError:
    reason = error if path.exists() else "there is no such file"
    return UserError(f"{path} cannot be read as an image: {reason}.")
