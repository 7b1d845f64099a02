"""The frames of texts or images as a GIF, on light paper."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from seedfast.console import warn
from seedfast.families.film import Cell, Film, ImageFrame, TextFilm, TextFrame, gif
from seedfast.report.animation.fonts import fitted, fonts_of, monospaced
from seedfast.report.animation.layout import Line, lines, window
from seedfast.report.animation.palette import CONFIDENCE, RGB, VERMILLION, confidence

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    Fonts = Mapping[str, FreeTypeFont]

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
    fonts = _fonts(laid)
    drawn = [_drawn(frame, window(found, frame, rows), columns, rows, fonts) for frame, found in laid]
    counts = Counter[RGB]()
    for image in (drawn[0], drawn[len(drawn) // 2], drawn[-1]):
        for count, colour in image.getcolors(image.width * image.height) or ():
            counts[colour] += count
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour, _ in counts.most_common(256) for value in colour])
    return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in drawn]


def _fonts(laid: Iterable[tuple[TextFrame, Sequence[Line]]]) -> "Fonts":
    """The font of each character. Warns of characters that are drawn as boxes."""
    characters = {text for _, found in laid for line in found for text, _, cell in line if cell.state != "open"}
    fonts = fonts_of(characters, _SIZE)
    if lacking := sorted(characters - fonts.keys()):
        shown = " ".join(lacking[:8]) + (f" … ({len(lacking)} characters)" if len(lacking) > 8 else "")
        warn(
            f"no font of this machine can draw {shown}, so the GIF has boxes there: install one that can, such as Noto "
            "Sans CJK, or write a page (--animate)."
        )
    return fonts


def _drawn(frame: TextFrame, shown: Sequence[Line], columns: int, rows: int, fonts: "Fonts") -> "Image":
    """A frame: its lines, and below them its numbers and the key."""
    from PIL import Image, ImageDraw

    wide, high = round(monospaced(_SIZE).getlength("0")), round(_SIZE * 1.45)
    size = (2 * _MARGIN + columns * wide, 2 * _MARGIN + (rows + 3) * high)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(shown):
        left, top = _MARGIN, _MARGIN + row * high
        for text, width, cell in line:
            _draw_cell(pen, (left, top, left + width * wide, top + high), text, cell, frame, fonts.get(text))
            left += width * wide
    below = _MARGIN + rows * high + high // 2
    pen.text((_MARGIN, below), frame.status, font=monospaced(_SIZE), fill=_FAINT)
    _draw_key(pen, below + high, wide, high)
    return image


def _draw_cell(
    pen: "ImageDraw",
    box: tuple[int, int, int, int],
    text: str,
    cell: Cell,
    frame: TextFrame,
    font: "FreeTypeFont | None",
) -> None:
    left, top, right, bottom = box
    if cell.state == "open":  # drawn, because the shaded character of the font is as dark as text
        colour = VERMILLION if frame.is_remasked(cell) else _OPEN
        pen.rectangle((left + 1, top + 4, right - 2, bottom - 5), fill=colour)
        return
    level = confidence(cell)
    if level is not None and CONFIDENCE[level].strength:
        pen.rectangle((left, top, right - 1, bottom - 1), fill=CONFIDENCE[level].over(_PAPER))
    ink = _FAINT if cell.state == "given" else _INK
    if font is None:
        pen.rectangle((left + 1, top + 4, right - 3, bottom - 5), outline=ink)
        return
    font = fitted(font, text, right - left)
    baseline = top + 2 + monospaced(_SIZE).getmetrics()[0]
    pen.text(
        (left + round((right - left - font.getlength(text)) / 2), baseline), text, font=font, fill=ink, anchor="ls"
    )


def _draw_key(pen: "ImageDraw", top: int, wide: int, high: int) -> None:
    """The colours of probabilities, from 0 to 1."""
    words = "probability 0 "
    pen.text((_MARGIN, top), words, font=monospaced(_SIZE), fill=_FAINT)
    left = _MARGIN + len(words) * wide
    for place, tint in enumerate(CONFIDENCE):
        start = left + 2 * place * wide
        pen.rectangle((start, top, start + 2 * wide - 1, top + high - 4), fill=tint.over(_PAPER))
    pen.text((left + (2 * len(CONFIDENCE) + 1) * wide, top), "1", font=monospaced(_SIZE), fill=_FAINT)
