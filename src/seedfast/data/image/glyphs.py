"""Glyphs: pictures without a download. Every character that the DejaVu and STIX faces can draw, named by Unicode.

The faces come with matplotlib, so every machine has some fifty thousand real pairs of picture and caption.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from seedfast.data.image.sources import Picture, PictureSource, Pixels

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
"""File → what captions call the face."""

_COMMON = {"L": "letterlike", "M": "diacritic", "N": "number", "P": "punctuation", "S": "symbol"}
_HEIGHT = 1.25
"""Of a line, in ems: DejaVu rises 0.93 above the baseline and falls 0.24 below it."""

BLANK = "nothing to see"
"""Why a character is left out that draws nothing."""

Label = Literal["script", "face"]
Unseen = Literal["image", "character", "face"]


@dataclass(frozen=True)
class GlyphSource(PictureSource):
    """The characters of all faces. label: what the classes are. unseen: of what validation holds new ones."""

    label: Label = "script"
    unseen: Unseen = "image"

    def pictures(self) -> Iterator[Picture]:
        from matplotlib.ft2font import FT2Font

        for file in self.names:
            path, face = self.root / file, FACES[Path(file).stem]
            for code in sorted(FT2Font(str(path)).get_charmap()):
                character = chr(code)
                name = unicodedata.name(character, "").lower()
                if not name or unicodedata.category(character)[0] in "CZ":  # controls, private use and spaces
                    continue
                caption = f"{name}, {face}"
                key = {"image": caption, "character": name, "face": face}[self.unseen]
                label = face if self.label == "face" else script(character)
                yield Picture(caption, key, label, caption, None, _drawing(path, character))


def glyph_source(label: Label, unseen: Unseen) -> PictureSource:
    """All glyphs."""
    import matplotlib

    root = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return GlyphSource("glyphs", root, tuple(f"{name}.ttf" for name in FACES), 1, (), label, unseen)


def script(character: str) -> str:
    """The script that Unicode counts a character to, or what kind of sign it is if many scripts share it."""
    from fontTools import unicodedata as data

    name = data.script_name(data.script(character)).lower()
    return _COMMON[unicodedata.category(character)[0]] if name in ("common", "inherited") else name


@lru_cache(maxsize=64)
def _font(path: Path, em: int):  # type: ignore[no-untyped-def]  # a FreeTypeFont: Pillow's is not needed before
    from PIL import ImageFont

    return ImageFont.truetype(str(path), em, layout_engine=ImageFont.Layout.BASIC)


def _drawing(path: Path, character: str):  # type: ignore[no-untyped-def]
    def read(size: int, channels: int) -> Pixels:
        values = draw(path, character, size)
        return np.repeat(values[None], channels, axis=0)

    return read


def draw(path: Path, character: str, size: int) -> Pixels:
    """A character in white on black, uint8 [size, size]: centred, on the line of its face, and no larger than it.

    Raises ValueError if nothing is drawn.
    """
    from PIL import Image, ImageDraw

    em = int(size / _HEIGHT)
    while True:
        left, top, right, bottom = _font(path, em).getbbox(character, anchor="ls")
        if right <= left or bottom <= top:
            raise ValueError(BLANK)
        if (right - left <= size and bottom - top <= size) or em <= 4:
            break
        em -= max(1, em // 12)  # a wide ligature or a tall bracket is drawn smaller
    line = round(size / 2 + em * 0.35)  # the middle of capitals and digits is the middle of the picture
    baseline = min(max(line, -top), size - bottom)
    image = Image.new("L", (size, size))
    x = (size - (right - left)) // 2 - left
    ImageDraw.Draw(image).text((x, baseline), character, fill=255, font=_font(path, em), anchor="ls")
    values = np.asarray(image, np.uint8)
    if not values.any():
        raise ValueError(BLANK)
    return values
