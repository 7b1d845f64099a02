"""The colours of animations: of the probability of a token, and of its age.

Improbable tokens are vermillion, probable ones blue, and the middle has no colour: the two hues of Okabe and Ito (2008)
that differ most with any kind of colour vision. The age of a token is the strength of one hue.
"""

from dataclasses import dataclass

from seedfast.families.film import Cell, TextFrame

RGB = tuple[int, int, int]

VERMILLION: RGB = (213, 94, 0)
BLUE: RGB = (0, 114, 178)
GREEN: RGB = (0, 158, 115)


@dataclass(frozen=True)
class Tint:
    """A background. strength: of the hue over the paper, 0 … 1. name: what it stands for, in words."""

    name: str
    hue: RGB
    strength: float

    def over(self, paper: RGB) -> RGB:
        """The colour on a paper."""
        mixed = (
            round(self.strength * mine + (1 - self.strength) * its) for mine, its in zip(self.hue, paper, strict=True)
        )
        red, green, blue = mixed
        return red, green, blue


CONFIDENCE = (
    Tint("below 0.1", VERMILLION, 0.55),
    Tint("0.1", VERMILLION, 0.25),
    Tint("0.3", VERMILLION, 0.0),
    Tint("0.6", BLUE, 0.25),
    Tint("0.9", BLUE, 0.5),
)
"""Colours by the probability of a token when it was written."""
PROBABILITIES = (0.1, 0.3, 0.6, 0.9)
"""The probabilities from which each further colour begins."""

AGES = (
    Tint("now", GREEN, 0.6),
    Tint("1", GREEN, 0.42),
    Tint("2", GREEN, 0.26),
    Tint("4", GREEN, 0.12),
    Tint("8 or more", GREEN, 0.0),
)
"""Colours by the number of steps since a token was written."""
STEPS = (1, 2, 4, 8)
"""The numbers of steps from which each further colour begins."""

TERMINAL = ("#d55e00", "#b27300", "#808080", "#3f8fbf", "#0072b2")
"""Colours of text by probability, legible on light and on dark terminals."""


def confidence(cell: Cell) -> int | None:
    """The place of a cell's colour in `CONFIDENCE`; None where the probability is unknown."""
    if cell.state != "written" or cell.probability is None:
        return None
    return sum(cell.probability >= least for least in PROBABILITIES)


def age(cell: Cell, frame: TextFrame) -> int | None:
    """The place of a cell's colour in `AGES`; None for a cell that was not written."""
    if cell.state != "written":
        return None
    return sum(frame.number - cell.since >= least for least in STEPS)
