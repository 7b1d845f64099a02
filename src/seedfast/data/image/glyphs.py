"""Glyphs: images without a download. All characters of the DejaVu and STIX fonts, with their Unicode names.

The fonts come with matplotlib, so every machine has some fifty thousand pairs of image and caption. A "face" is one
font, such as DejaVu Sans Bold.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from seedfast.data.image.decode import ImageError, PixelArray
from seedfast.data.image.sources import ImageEntry, ImageSource, Read

FACES = {
    "DejaVuSans": "sans",
    "DejaVuSans-Bold": "sans bold",
    "DejaVuSans-Oblique": "sans oblique",
    "DejaVuSans-BoldOblique": "sans bold oblique",
    "DejaVuSansMono": "mono",
    "DejaVuSansMono-Bold": "mono bold",
    "DejaVuSansMono-Oblique": "mono oblique",
    "DejaVuSansMono-BoldOblique": "mono bold oblique",
    "DejaVuSerif": "serif",
    "DejaVuSerif-Bold": "serif bold",
    "DejaVuSerif-Italic": "serif italic",
    "DejaVuSerif-BoldItalic": "serif bold italic",
    "STIXGeneral": "stix",
    "STIXGeneralBol": "stix bold",
    "STIXGeneralItalic": "stix italic",
    "STIXGeneralBolIta": "stix bold italic",
}
"""File name → the name of the face in captions."""

_COMMON = {"L": "letterlike", "M": "diacritic", "N": "number", "P": "punctuation", "S": "symbol"}
_HEIGHT = 1.25
"""Height of a line in ems: DejaVu extends 0.93 above the baseline and 0.24 below it."""

BLANK = "nothing to see"
"""The reason for leaving out a character without ink."""

GlyphClass = Literal["script", "face"]
SplitBy = Literal["image", "character", "face"]


@dataclass(frozen=True)
class GlyphSource(ImageSource):
    """The characters of all faces. glyph_class: the classes. split_by: the unit of the split."""

    glyph_class: GlyphClass = "script"
    split_by: SplitBy = "image"

    def images(self) -> Iterator[ImageEntry]:
        from matplotlib.ft2font import FT2Font

        for file in self.names:
            path, face = self.root / file, FACES[Path(file).stem]
            for code in sorted(FT2Font(str(path)).get_charmap()):
                character = chr(code)
                name = unicodedata.name(character, "").lower()
                if not name or unicodedata.category(character)[0] in "CZ":  # controls, private use and spaces
                    continue
                caption = f"{name}, {face}"
                split_key = {"image": caption, "character": name, "face": face}[self.split_by]
                label = face if self.glyph_class == "face" else script(character)
                yield ImageEntry(caption, split_key, label, caption, None, _glyph_reader(path, character))


def glyph_source(glyph_class: GlyphClass, split_by: SplitBy) -> ImageSource:
    """All glyphs."""
    import matplotlib

    root = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return GlyphSource(
        "glyphs", root, tuple(f"{name}.ttf" for name in FACES), channels=1, glyph_class=glyph_class, split_by=split_by
    )


def script(character: str) -> str:
    """The Unicode script of a character, or its kind (such as number) if many scripts share it."""
    from fontTools import unicodedata as data

    name = data.script_name(data.script(character)).lower()
    return _COMMON[unicodedata.category(character)[0]] if name in ("common", "inherited") else name


@lru_cache(maxsize=64)
def _font(path: Path, em: int):  # type: ignore[no-untyped-def]  # a FreeTypeFont, whose import is deferred
    from PIL import ImageFont

    return ImageFont.truetype(str(path), em, layout_engine=ImageFont.Layout.BASIC)


def _glyph_reader(path: Path, character: str) -> Read:
    def read(size: int, channels: int) -> PixelArray:
        values = draw(path, character, size)
        return np.repeat(values[None], channels, axis=0)

    return read


def draw(path: Path, character: str, size: int) -> PixelArray:
    """A character in white on black, uint8 [size, size]: centred, on a fixed baseline, shrunk if it is too large.

    Raises ImageError for a character without ink.
    """
    from PIL import Image, ImageDraw

    em = int(size / _HEIGHT)
    while True:
        left, top, right, bottom = _font(path, em).getbbox(character, anchor="ls")
        if right <= left or bottom <= top:
            raise ImageError(BLANK)
        if (right - left <= size and bottom - top <= size) or em <= 4:
            break
        em -= max(1, em // 12)  # a wide ligature or a tall bracket is shrunk
    line = round(size / 2 + em * 0.35)  # capitals and digits are centred vertically
    baseline = min(max(line, -top), size - bottom)
    image = Image.new("L", (size, size))
    x = (size - (right - left)) // 2 - left
    ImageDraw.Draw(image).text((x, baseline), character, fill=255, font=_font(path, em), anchor="ls")
    values = np.asarray(image, np.uint8)
    if not values.any():
        raise ImageError(BLANK)
    return values
