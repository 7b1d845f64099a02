"""The frames of texts or images as a GIF, on light paper; texts in the font DejaVu Sans Mono, which matplotlib has."""

import io
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from seedfast.families.film import Cell, Film, ImageFrame, TextFilm, TextFrame, gif
from seedfast.report.animation.layout import Line, lines, window
from seedfast.report.animation.palette import CONFIDENCE, RGB, VERMILLION, confidence

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

COLUMNS, MOST_LINES = 72, 40
"""The size of a picture in characters; of a longer text the part is shown that changed last."""
_SLOWEST, _FASTEST, _WHOLE, _END = 120, 40, 6000, 2500
"""Milliseconds: of a frame, at most and at least; of all frames together; of the last one."""
_SIZE, _MARGIN = 15, 16
_PAPER: RGB = (255, 255, 255)
_INK: RGB = (29, 37, 48)
_FAINT: RGB = (93, 104, 120)
_OPEN: RGB = (196, 203, 212)


def animation(films: Sequence[Film], *, columns: int = COLUMNS) -> bytes:
    """A GIF of films of one kind, one after the other."""
    images: list[Image] = []
    milliseconds: list[int] = []
    for film in films:
        each = round(min(_SLOWEST, max(_FASTEST, _WHOLE / len(film))))
        milliseconds += [each] * (len(film) - 1) + [_END]
    first = films[0][0]
    if isinstance(first, ImageFrame):
        images = [_enlarged(frame) for film in films for frame in film if isinstance(frame, ImageFrame)]
    else:
        images = _pages([film for film in films if _is_text(film)], columns)  # type: ignore[misc]
    return gif(images, milliseconds)


def _is_text(film: Film) -> bool:
    return isinstance(film[0], TextFrame)


def _enlarged(frame: ImageFrame) -> "Image":
    from PIL import Image

    image = Image.open(io.BytesIO(frame.png))
    return image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)


def _pages(films: Sequence[TextFilm], columns: int) -> "list[Image]":
    """Each frame as a picture of one size and one palette."""
    from PIL import Image

    laid = [(frame, lines(frame.cells, columns)) for film in films for frame in film]
    rows = min(MOST_LINES, max(len(found) for _, found in laid))
    drawn = [_drawn(frame, window(found, frame, rows), columns, rows) for frame, found in laid]
    counts = Counter[RGB]()
    for image in (drawn[0], drawn[len(drawn) // 2], drawn[-1]):
        for count, colour in image.getcolors(image.width * image.height) or ():
            counts[colour] += count
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour, _ in counts.most_common(256) for value in colour])
    return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in drawn]


@lru_cache(maxsize=1)
def _font() -> "FreeTypeFont":
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), _SIZE)


def _drawn(frame: TextFrame, shown: Sequence[Line], columns: int, rows: int) -> "Image":
    """A frame: its lines, and below them its numbers and the key."""
    from PIL import Image, ImageDraw

    wide, high = round(_font().getlength("0")), round(_SIZE * 1.45)
    size = (2 * _MARGIN + columns * wide, 2 * _MARGIN + (rows + 3) * high)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(shown):
        left, top = _MARGIN, _MARGIN + row * high
        for text, width, cell in line:
            _draw_cell(pen, (left, top, left + width * wide, top + high), text, cell, frame)
            left += width * wide
    below = _MARGIN + rows * high + high // 2
    pen.text((_MARGIN, below), frame.status, font=_font(), fill=_FAINT)
    _draw_key(pen, below + high, wide, high)
    return image


def _draw_cell(pen: "ImageDraw", box: tuple[int, int, int, int], text: str, cell: Cell, frame: TextFrame) -> None:
    left, top, right, bottom = box
    if cell.state == "open":  # drawn, because the shaded character of the font is as dark as text
        colour = VERMILLION if frame.is_remasked(cell) else _OPEN
        pen.rectangle((left + 1, top + 4, right - 2, bottom - 5), fill=colour)
        return
    level = confidence(cell)
    if level is not None and CONFIDENCE[level].strength:
        pen.rectangle((left, top, right - 1, bottom - 1), fill=CONFIDENCE[level].over(_PAPER))
    pen.text((left, top + 2), text, font=_font(), fill=_FAINT if cell.state == "given" else _INK)


def _draw_key(pen: "ImageDraw", top: int, wide: int, high: int) -> None:
    """The colours of probabilities, from 0 to 1."""
    words = "probability 0 "
    pen.text((_MARGIN, top), words, font=_font(), fill=_FAINT)
    left = _MARGIN + len(words) * wide
    for place, tint in enumerate(CONFIDENCE):
        start = left + 2 * place * wide
        pen.rectangle((start, top, start + 2 * wide - 1, top + high - 4), fill=tint.over(_PAPER))
    pen.text((left + (2 * len(CONFIDENCE) + 1) * wide, top), "1", font=_font(), fill=_FAINT)
