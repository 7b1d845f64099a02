"""The fonts of pictures of text: DejaVu Sans Mono, which matplotlib has, and for what it lacks those of the machine."""

from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


@lru_cache(maxsize=4)
def monospaced(size: int) -> "FreeTypeFont":
    """DejaVu Sans Mono at a size in pixels."""
    from PIL import ImageFont

    return ImageFont.truetype(str(_monospaced_file()), size)


def fonts_of(texts: Collection[str], size: int) -> "dict[str, FreeTypeFont]":
    """The font of each text, DejaVu Sans Mono where it has all characters of it.

    Texts that no font of this machine can draw are left out. The fonts of the machine are read only if they are needed.
    """
    found: dict[str, FreeTypeFont] = {}
    left = set(texts)
    for path in _files():
        if not left:
            break
        if shown := _shown(path, left):
            font = _opened(path, size)
            if font is not None:
                found |= dict.fromkeys(shown, font)
                left -= shown
    return found


def fitted(font: "FreeTypeFont", text: str, width: int) -> "FreeTypeFont":
    """The font, or a smaller size of it in which a text is less than `width` + 1 pixels wide."""
    needed = font.getlength(text)
    return font if needed < width + 1 else font.font_variant(size=max(1, int(font.size * width / needed)))


def _monospaced_file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"


def _files() -> Iterator[Path]:
    """Files of fonts, the most suitable ones first."""
    yield _monospaced_file()
    from matplotlib.font_manager import fontManager

    def unlikeness(entry: Any) -> tuple[Any, ...]:
        weight = entry.weight if isinstance(entry.weight, int) else 400
        return entry.style != "normal", abs(weight - 400), "mono" not in entry.name.lower(), entry.name, entry.fname

    for entry in sorted(fontManager.ttflist, key=unlikeness):
        if not entry.name.replace(" ", "").lstrip(".").startswith("LastResort"):  # which has a box for every character
            yield Path(entry.fname)


def _shown(path: Path, texts: Collection[str]) -> set[str]:
    """The texts of which a font has all characters; none for a file that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or damaged
        return set()
    return {text for text in texts if all(font.get_char_index(ord(character)) for character in text)}


def _opened(path: Path, size: int) -> "FreeTypeFont | None":
    """A font at a size; None for one that has not this size, such as one of pictures."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(str(path), size)
    except OSError:
        return None
