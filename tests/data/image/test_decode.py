"""Decoding: every mode, orientation, transparency and depth becomes the same kind of pixels."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedfast.data.image.decode import ImageError, has_image_ending, open_image, to_pixels


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


ORIENTATION, GPS = 0x0112, 0x8825


def tiff_of(entries: list[tuple[int, int, int, bytes]], size: int = 26) -> bytes:
    """EXIF data with these entries: tag, type, count, and four bytes of value or offset."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    "broken",
    [
        tiff_of([(ORIENTATION, 3, 1, b"\3\0\0\0"), (GPS, 4, 1, b"\xff\xff\xff\x7f")]),
        tiff_of([(ORIENTATION, 3, 1, b"\3\0\0\0"), (0x829A, 5, 1, b"\xff\xff\xff\x7f")]),
        tiff_of([(ORIENTATION, 3, 1, b"\3\0\0\0"), (0x9286, 99, 7, b"\1\2\3\4")]),
    ],
    ids=["a directory that lies outside", "a value that lies outside", "an unknown type"],
)
def test_an_image_with_malformed_exif_is_still_turned_upright(broken: bytes, tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    picture.paste((255, 255, 255), (0, 0, 8, 4))
    picture.save(tmp_path / "a.jpg", exif=broken, quality=100)
    with open_image(tmp_path / "a.jpg") as image:
        pixels = to_pixels(image, 8, 1)[0]
    assert pixels[:3].max() < 50, "the bright half is below"
    assert pixels[5:].min() > 200


@pytest.mark.parametrize("error", [struct.error, TypeError, ZeroDivisionError, IndexError, AttributeError])
def test_an_error_behind_load_is_the_image_s(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def getexif(image: Image.Image) -> None:
        raise error("at byte 7")

    monkeypatch.setattr(Image.Image, "getexif", getexif)
    with pytest.raises(ImageError, match="at byte 7"):
        to_pixels(Image.new("RGB", (8, 8)), 8, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"just words", "^not a picture$"),
    ],
)
def test_the_reason_tells_what_lies_in_the_place_of_a_picture(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for file in (tmp_path / "a.jpg", io.BytesIO(content)):
        with pytest.raises(ImageError, match=reason):
            open_image(file)
    with pytest.raises(ImageError, match=r"^missing$"):
        open_image(tmp_path / "b.jpg")


def test_a_decompression_bomb_is_refused_and_a_large_image_is_read_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_image(tmp_path / "a.png").size == (40, 40)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ImageError, match="more than 1,400 pixels"):
        open_image(tmp_path / "a.png")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="no regular file"):
        open_image(tmp_path / "pipe.png")


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="no pixels"):
        to_pixels(Image.new("RGB", (0, 5)), 8, 3)


@pytest.mark.parametrize("name", ["a.png", "A.JPG", "a.jpeg?width=300", "dir.x/b.WebP"])
def test_endings_are_read_in_any_case_and_without_a_query(name: str) -> None:
    assert has_image_ending(name)
    assert not has_image_ending(f"{name.partition('?')[0]}.txt")


def test_the_centre_square_is_cropped() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert to_pixels(Image.fromarray(wide), 8, 1).min() == 200
