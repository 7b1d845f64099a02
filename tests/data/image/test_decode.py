"""Decoding: every mode, orientation, transparency and depth becomes the same kind of pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedfast.data.image.decode import open_image, to_pixels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "HSV"])
def test_every_mode_is_converted_to_grey_or_colour(mode: str) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    grey, colour = to_pixels(image, 8, 1), to_pixels(image, 8, 3)
    assert grey.shape == (1, 8, 8)
    assert colour.shape == (3, 8, 8)
    if mode not in ("1", "HSV"):
        assert np.abs(grey[0].astype(int) - values).max() <= 2, "the same light, not a stretched one"


def test_grey_of_16_bits_keeps_its_transparency_and_32_bits_are_refused(tmp_path: Path) -> None:
    values = np.full((8, 8), 1000, np.uint16)
    values[0] = 0
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=0)
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "whole.tiff")
    with open_image(tmp_path / "clear.png") as image:
        grey = to_pixels(image, 8, 1)[0]
    assert (grey[0] == 255).all()
    assert (grey[1:] == 3).all()
    with open_image(tmp_path / "whole.tiff") as image, pytest.raises(ValueError, match="32-bit pixels"):
        to_pixels(image, 8, 1)


def test_dark_images_stay_dark() -> None:
    assert to_pixels(Image.fromarray(np.full((8, 8), 300, np.uint16)), 8, 1).max() == 1
    assert to_pixels(Image.fromarray(np.full((8, 8), 3, np.uint8)), 8, 1).max() == 3


def test_transparent_pixels_are_white_and_images_upright() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert to_pixels(clear, 8, 3).min() == 255
    picture = Image.new("L", (8, 8))
    picture.putpixel((0, 0), 255)
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.info["exif"] = exif.tobytes()
    assert to_pixels(picture, 8, 1)[0, 7, 7] == 255


def test_the_centre_square_is_cropped() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert to_pixels(Image.fromarray(wide), 8, 1).min() == 200
