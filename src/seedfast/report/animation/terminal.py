"""Frames of a text drawn in place on a terminal."""

import time
from itertools import takewhile
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from seedfast.console import printable
from seedfast.families.film import OPEN, Cell, TextFilm, TextFrame
from seedfast.report.animation.layout import Line, lines, window
from seedfast.report.animation.palette import TERMINAL, confidence

_FASTEST, _UNHURRIED = 0.03, 300
"""Seconds that a frame stays at least while a text is generated, of the first ones."""
_SLOWEST, _WHOLE = 0.1, 5.0
"""Seconds that a frame of a finished text stays at most, and all of them together."""
_BELOW = 3  # lines of numbers and of the key, and one that the terminal keeps free


class Player:
    """Draws each frame over the one before; what it drew is gone when it ends.

    hides_given: whether given text at the beginning is left out, such as the earlier turns of a chat.
    """

    def __init__(self, console: Console, *, hides_given: bool = False) -> None:
        self._console, self._hides_given = console, hides_given
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._next = 0.0

    def show(self, frame: TextFrame, seconds: float | None = None) -> None:
        """Draw a frame, once the one before has been there for long enough; this one stays for `seconds`.

        By default that is short, and after many frames no time: generation does not wait for the terminal for long.
        """
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._live.update(self.drawn(frame), refresh=True)
        stays = (_FASTEST if frame.number < _UNHURRIED else 0.0) if seconds is None else seconds
        self._next = time.monotonic() + stays

    def play(self, film: TextFilm) -> None:
        """Draw all frames of a finished text."""
        seconds = min(_SLOWEST, _WHOLE / max(1, len(film)))
        for frame in film:
            self.show(frame, seconds)

    def drawn(self, frame: TextFrame) -> Group:
        """A frame as it is drawn: the text, or the part of it that changed last, its numbers, and the key."""
        console = self._console
        if self._hides_given:
            frame = frame.after(len(list(takewhile(lambda cell: cell.state == "given", frame.cells))))
        shown = window(lines(frame.cells, console.width), frame, max(1, console.height - _BELOW))
        return Group(
            *(_line(line, frame) for line in shown), Text(frame.status, style="dim", no_wrap=True), _key(console)
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            time.sleep(max(0.0, self._next - time.monotonic()))
        self._live.stop()


def _line(line: Line, frame: TextFrame) -> Text:
    drawn = Text(no_wrap=True, overflow="crop", end="\n")
    for text, _, cell in line:
        drawn.append(printable(text), _style(cell, frame))
    return drawn


def _style(cell: Cell, frame: TextFrame) -> str:
    """Given text is plain, written text coloured, what is new bold; words that were masked again are reversed once."""
    if cell.state == "given":
        return ""
    if cell.state == "open":
        return f"reverse {TERMINAL[0]}" if frame.is_remasked(cell) else "dim"
    level = confidence(cell)
    colour = "" if level is None else TERMINAL[level]
    return f"bold {colour}".strip() if frame.is_new(cell) else colour


def _key(console: Console) -> Text:
    """What the styles mean."""
    key = Text(no_wrap=True, overflow="crop", style="dim")
    key.append(f"{OPEN} open  ").append("new", "bold").append("  ").append("masked again", "reverse")
    if console.no_color:
        return key
    key.append("  probability 0 ")
    for colour in TERMINAL:
        key.append("██", colour)
    return key.append(" 1")
