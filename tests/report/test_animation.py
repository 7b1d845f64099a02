"""Animations: lines of a fixed width, colours for every kind of colour vision, frames on a terminal and in a GIF."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager, get_font, ttfFontProperty
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from seedfast.families.film import OPEN, Cell, ImageFrame, TextFilm, TextFrame
from seedfast.report.animation.fonts import fonts_of
from seedfast.report.animation.layout import lines, window
from seedfast.report.animation.page import page
from seedfast.report.animation.palette import AGES, CONFIDENCE, RGB, TERMINAL, age, confidence
from seedfast.report.animation.picture import COLUMNS, animation
from seedfast.report.animation.terminal import Player


def written(text: str, since: int = 0, probability: float | None = 0.5) -> Cell:
    return Cell(text, "written", since, probability)


def film(*texts: str) -> TextFilm:
    """A film of texts of equal length in which `.` is open."""
    frames: list[TextFrame] = []
    for number, text in enumerate(texts):
        cells = []
        for place, letter in enumerate(text):
            same = number > 0 and texts[number - 1][place] == letter
            since = frames[-1].cells[place].since if same else number
            cells.append(Cell(OPEN, "open", since) if letter == "." else written(letter, since, 0.05 * (place % 20)))
        frames.append(TextFrame(number, tuple(cells), number, 1.5 if number else None))
    return tuple(frames)


# ---- lines ------------------------------------------------------------------------------------------------------


def shown(text: str, columns: int) -> list[str]:
    return ["".join(part for part, _, _ in line) for line in lines([written(c) for c in text], columns)]


def test_lines_break_at_spaces_and_long_words_anywhere() -> None:
    assert shown("the cat sees", 8) == ["the cat", "sees"]
    assert shown("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert shown("a\n\nb", 4) == ["a", "", "b"]
    assert shown("abcd efgh", 4) == ["abcd", "efgh"]


def test_wide_characters_take_two_columns_and_marks_none() -> None:
    assert shown("猫は犬を", 5) == ["猫は", "犬を"]
    assert shown("e\N{COMBINING ACUTE ACCENT}e", 2) == ["e\N{COMBINING ACUTE ACCENT}e"]
    assert all(cell_len(line) <= 7 for line in shown("猫 and 犬 and 鳥" * 4, 7))


def test_control_characters_are_not_passed_on() -> None:
    assert shown("a\x1b[31mb\tc\r", 40) == ["a\N{REPLACEMENT CHARACTER}[31mb    c"]


def test_of_a_long_text_the_lines_are_shown_that_changed_last() -> None:
    cells = [written("a\n", since=3 if number == 20 else 0) for number in range(40)]
    frame = TextFrame(3, tuple(cells), 3)
    found = lines(cells, 10)
    part = window(found, frame, 5)
    assert len(part) == 5
    assert any(cell is cells[20] for line in part for _, _, cell in line)


# ---- colours ----------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency",
# severity 1, in linear RGB.
DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
PAPERS: dict[str, RGB] = {"light": (255, 255, 255), "dark": (22, 26, 32)}


def linear(colour: RGB) -> list[float]:
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]


def lab(rgb: list[float]) -> list[float]:
    """CIELAB under D65 of linear RGB."""
    matrix = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    xyz = [sum(m * c for m, c in zip(row, rgb, strict=True)) / w for row, w in zip(matrix, white, strict=True)]
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (max(0.0, value) for value in xyz)]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


def difference(one: RGB, other: RGB, deficiency: str) -> float:
    """ΔE (CIE 1976) of two colours as a person with this colour vision sees them."""
    seen = []
    for colour in (one, other):
        rgb = [sum(m * c for m, c in zip(row, linear(colour), strict=True)) for row in DEFICIENCIES[deficiency]]
        seen.append(lab([min(1.0, max(0.0, value)) for value in rgb]))
    return sum((a - b) ** 2 for a, b in zip(*seen, strict=True)) ** 0.5


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("paper", PAPERS)
def test_the_colours_of_a_scale_differ_with_any_colour_vision(deficiency: str, paper: str) -> None:
    for scale in (CONFIDENCE, AGES):
        colours = [tint.over(PAPERS[paper]) for tint in scale]
        assert all(difference(*pair, deficiency) > 4 for pair in pairwise(colours))
        assert difference(colours[0], colours[-1], deficiency) > 15


def test_twin_red_and_green_would_look_alike() -> None:
    assert difference((200, 70, 70), (105, 120, 70), "deuteranopia") < 15


def test_the_colours_of_the_terminal_are_legible_on_light_and_on_dark() -> None:
    def luminance(colour: RGB) -> float:
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))

    for name in TERMINAL:
        red, green, blue = (int(name[start : start + 2], 16) for start in (1, 3, 5))
        mine = luminance((red, green, blue))
        assert (1 + 0.05) / (mine + 0.05) > 3, "WCAG's contrast on white"
        assert (mine + 0.05) / (0 + 0.05) > 3, "and on black"


def test_levels_are_those_of_the_key() -> None:
    assert [confidence(written("a", 0, p)) for p in (0.0, 0.0999, 0.1, 0.5, 0.6, 0.9, 1.0)] == [0, 0, 1, 2, 3, 4, 4]
    assert confidence(written("a", 0, None)) is None
    frame = TextFrame(9, (), 9)
    assert [age(written("a", since), frame) for since in (9, 8, 7, 6, 5, 1, 0)] == [0, 1, 2, 2, 3, 4, 4]
    assert age(Cell("a", "given"), frame) is None


# ---- on a terminal ----------------------------------------------------------------------------------------------


def terminal(width: int = 80, height: int = 24, **options: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, _environ={}, **options)  # type: ignore[arg-type]


def test_a_player_draws_over_its_last_frame_and_leaves_nothing() -> None:
    console = terminal()
    with Player(console) as player:
        player.play(film("....", "a..d", "abcd"))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 2" in output
    assert "\x1b[1A\x1b[2K" in output, "the lines before are cleared"
    assert output.endswith("\x1b[2K"), "and those of the last frame"
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1, "the cursor is there again"


def test_a_frame_fits_the_terminal() -> None:
    console = terminal(width=20, height=10)
    frame = film("word " * 80)[0]
    drawn = console.render_lines(Player(console).drawn(frame), pad=False)
    assert len(drawn) == 9, "of ten lines the last one stays free"


def test_without_colours_new_and_remasked_words_still_stand_out() -> None:
    console = terminal(no_color=True)
    console.print(Player(console).drawn(film("ab..", "a.c.")[1]))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"\x1b\[1mc", output), "new words are bold"
    assert re.search(rf"\x1b\[7m{OPEN}", output), "words that were masked again are reversed"
    assert "38;" not in output


def test_the_earlier_turns_of_a_chat_are_hidden() -> None:
    console = terminal()
    cells = (Cell("given ", "given"), written("new", 1))
    console.print(Player(console, hides_given=True).drawn(TextFrame(1, cells, 1)))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "given" not in output
    assert "new" in output


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_gif_has_every_frame_and_shows_the_last_one_longer() -> None:
    image = Image.open(io.BytesIO(animation([film("....", "a..d", "abcd"), film("..", "xy")])))
    durations = []
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        durations.append(image.info["duration"])
    assert len(durations) == 5
    assert durations[2] == durations[4] > 10 * durations[0]
    assert image.info["loop"] == 0


def test_words_of_a_gif_have_the_colour_of_their_probability() -> None:
    def colours(probability: float) -> set[RGB]:
        frame = TextFrame(1, (written("x" * COLUMNS, 1, probability),), 1)
        image = Image.open(io.BytesIO(animation([(frame,)]))).convert("RGB")
        return {image.getpixel((18 + 9 * place, 20)) for place in range(20)}  # type: ignore[misc]

    for probability, level in ((0.01, 0), (0.99, 4)):
        expected = CONFIDENCE[level].over((255, 255, 255))
        near = [max(abs(a - b) for a, b in zip(each, expected, strict=True)) for each in colours(probability)]
        assert min(near) < 6, "a palette of Pillow's rounds"


CAT = "猫"
"""A character that DejaVu Sans Mono lacks."""


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The fonts of the machine, of which there are none but those that a test adds."""
    found: list[Any] = []
    monkeypatch.setattr(fontManager, "ttflist", found)
    return found


def font_with(character: str, path: Path) -> Path:
    """A font of one black square."""
    square = TTGlyphPen(None)
    for corner, place in (("moveTo", (0, 0)), ("lineTo", (0, 900)), ("lineTo", (900, 900)), ("lineTo", (900, 0))):
        getattr(square, corner)(place)
    square.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def drawn(text: str) -> Image.Image:
    """The picture of a text, without colours of probability."""
    frame = TextFrame(1, tuple(written(character, 1, None) for character in text), 1)
    return Image.open(io.BytesIO(animation([(frame,)]))).convert("L")


def test_a_character_that_the_usual_font_lacks_is_drawn_in_a_font_of_the_machine(
    fonts: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = (16 + 9, 16 + 11)  # the middle of the first two columns
    assert drawn(CAT).getpixel(inside) > 200, "a box, which is empty"
    assert f"no font of this machine can draw {CAT}, so the GIF has boxes there" in capsys.readouterr().err
    fonts.append(ttfFontProperty(get_font(str(font_with(CAT, tmp_path / "square.ttf")))))
    assert drawn(CAT).getpixel(inside) < 60, "the square of the font"
    assert capsys.readouterr().err == ""


def test_wide_characters_of_a_gif_keep_the_columns(fonts: list[Any], tmp_path: Path) -> None:
    def bar(text: str) -> Image.Image:
        """The 21st column."""
        return drawn(text).crop((16 + 20 * 9, 16, 16 + 21 * 9, 16 + 20))

    expected = bar("x" * 20 + "|").tobytes()
    assert bar(CAT * 10 + "|").tobytes() == expected, "boxes"
    fonts.append(ttfFontProperty(get_font(str(font_with(CAT, tmp_path / "square.ttf")))))
    assert bar(CAT * 10 + "|").tobytes() == expected
    assert bar(CAT * 9 + "|").tobytes() != expected


def test_a_damaged_font_of_the_machine_is_passed_over(fonts: list[Any], tmp_path: Path) -> None:
    entry = ttfFontProperty(get_font(str(font_with(CAT, tmp_path / "square.ttf"))))
    fonts.append(replace(entry, fname=str(tmp_path / "gone.ttf"), name="A"))
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    fonts.append(replace(entry, fname=str(tmp_path / "damaged.ttf"), name="B"))
    fonts.append(entry)
    assert fonts_of([CAT], 15)[CAT].getname() == ("Square", "Regular")


def test_a_page_cannot_be_broken_by_its_text() -> None:
    nasty = "</script><script>alert(1)</script>&amp;\u2028"
    shown = page(nasty, [nasty], [(TextFrame(0, (written(nasty),), 0),)])
    assert shown.count("<script") == 2
    assert shown.count("alert(1)</script>") == 0
    stored = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown, re.DOTALL)
    assert stored
    assert json.loads(stored[1])["films"][0]["frames"][0]["changes"][0][1] == nasty


def test_a_page_loads_nothing_from_elsewhere() -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    pages = [page("t", [], [film("..", "ab")]), page("t", [], [(ImageFrame(0, buffer.getvalue(), 0),)])]
    for each in pages:
        assert not re.search(r"https?://|@import|url\(", each)


def test_a_page_stores_only_what_changes() -> None:
    shown = page("t", [], [film(*("." * n + "a" * (400 - n) for n in range(400, 0, -1)))])
    assert len(shown) < 100_000
