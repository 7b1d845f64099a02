"""A text as lines of a fixed width, for terminals and pictures: each character with the cell that it belongs to."""

from collections.abc import Iterable, Sequence
from unicodedata import category

from rich.cells import cell_len

from seedfast.families.film import Cell, TextFrame

Character = tuple[str, int, Cell]
"""Its text, with the marks that combine with it; the columns that it takes, 1 or 2; its cell."""
Line = list[Character]

_TAB = 4


def lines(cells: Iterable[Cell], columns: int) -> list[Line]:
    """The cells in lines of at most `columns`, broken at spaces where there are some."""
    found: list[Line] = [[]]
    for text, width, cell in _characters(cells):
        line = found[-1]
        if text == "\n":
            found.append([])
        elif width == 0 and line:
            last, its_width, its_cell = line[-1]
            line[-1] = (last + text, its_width, its_cell)
        elif _width(line) + width <= columns:
            line.append((text, width, cell))
        elif text == " ":
            found.append([])
        else:
            rest = _after_last_space(line)
            found.append([*rest, (text, width, cell)])
    return found


def window(found: Sequence[Line], frame: TextFrame, room: int) -> Sequence[Line]:
    """At most `room` of a frame's lines: those up to the last one that its step changed, and more below if they fit."""
    changed = (number for number, line in enumerate(found) if any(frame.is_new(cell) for _, _, cell in line))
    first = min(max(0, max(changed, default=0) + 1 - room), max(0, len(found) - room))
    return found[first : first + room]


def _characters(cells: Iterable[Cell]) -> Iterable[Character]:
    for cell in cells:
        for character in cell.text:
            if character == "\t":
                yield from [(" ", 1, cell)] * _TAB
            elif character == "\n":
                yield character, 0, cell
            elif category(character) != "Cc":
                yield character, cell_len(character), cell
            elif character != "\r":  # control characters must not reach a terminal
                yield "\N{REPLACEMENT CHARACTER}", 1, cell


def _width(line: Line) -> int:
    return sum(width for _, width, _ in line)


def _after_last_space(line: Line) -> Line:
    """Take the word at the end of a line off it, to begin the next one; nothing if the line is one word."""
    place = max((index for index, (text, _, _) in enumerate(line) if text == " "), default=None)
    if place is None:
        return []
    rest = line[place + 1 :]
    del line[place:]
    return rest
