"""The frames of a sampler as a value: what a terminal, a GIF and a page animate.

A sampler of text decides positions, and a sampler of images denoises pixels; each step is a frame. Frame 0 is what the
sampler began with.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

OPEN = "░"
"""How a position that is still open is shown."""

State = Literal["open", "written", "given"]
"""Of a position: still open, written by the model, or part of the request."""


@dataclass(frozen=True)
class Cell:
    """A position of a text in a frame.

    text: what its token adds to the text; "" where a character is completed by a later token, `OPEN` where it is open.
    since: the number of the frame from which it is so. probability: of the token when it was written, after
    temperature, top-k and top-p; None where that is unknown.
    """

    text: str
    state: State
    since: int = 0
    probability: float | None = None


@dataclass(frozen=True)
class TextFrame:
    """A text after a step.

    number: 0 before the first step. evaluations: of the network until then. entropy: the mean of the distributions from
    which tokens were written since the frame before, in nats; None where that is unknown.
    """

    number: int
    cells: tuple[Cell, ...]
    evaluations: int
    entropy: float | None = None

    @property
    def text(self) -> str:
        """The text, with a placeholder for each open position."""
        return "".join(cell.text for cell in self.cells)

    @property
    def open(self) -> int:
        """The number of open positions."""
        return sum(cell.state == "open" for cell in self.cells)

    def is_new(self, cell: Cell) -> bool:
        """Whether a cell was changed by this frame's step."""
        return cell.since == self.number > 0

    def is_remasked(self, cell: Cell) -> bool:
        """Whether this frame's step opened a position that was written before."""
        return cell.state == "open" and self.is_new(cell)

    def after(self, given: int) -> "TextFrame":
        """The frame without its first `given` cells."""
        return TextFrame(self.number, self.cells[given:], self.evaluations, self.entropy)

    @property
    def status(self) -> str:
        """The numbers of the frame, in words."""
        entropy = [] if self.entropy is None else [f"entropy {self.entropy:.2f} nats"]
        still_open = [f"{self.open} open"] if self.open else []
        return " · ".join([f"step {self.number}", _evaluations(self.evaluations), *entropy, *still_open])


@dataclass(frozen=True)
class ImageFrame:
    """Images after a step of their denoising, as one picture, a PNG file.

    evaluations: of the network for an image; None for a frame of an interpolation, which is no step.
    """

    number: int
    png: bytes
    evaluations: int | None

    @property
    def status(self) -> str:
        """The numbers of the frame, in words."""
        if self.evaluations is None:
            return f"frame {self.number + 1}"
        return f"step {self.number} · {_evaluations(self.evaluations)}"


def _evaluations(count: int) -> str:
    return f"{count} evaluation{'' if count == 1 else 's'}"


TextFilm = tuple[TextFrame, ...]
"""The frames of one text."""
ImageFilm = tuple[ImageFrame, ...]
"""The frames of images that are denoised together."""
Film = TextFilm | ImageFilm


def pieces(single: Sequence[str], whole: str, prefix: Iterable[str]) -> list[str]:
    """What each of some adjacent tokens adds to their text: strings whose concatenation is the whole.

    single: each token decoded alone. prefix: the text of the first token, of the first two, and so on; used where the
    tokens alone do not make the whole, as where several tokens share one character.
    """
    if "".join(single) == whole:
        return list(single)
    found: list[str] = []
    done = ""
    for text in prefix:
        complete = text.rstrip("\N{REPLACEMENT CHARACTER}")
        is_longer = complete.startswith(done) and whole.startswith(complete)
        found.append(complete[len(done) :] if is_longer else "")
        done = complete if is_longer else done
    if found:
        found[-1] += whole[len(done) :]
    return found


def gif(images: "Sequence[Image]", milliseconds: Sequence[int]) -> bytes:
    """An animation that repeats, each image shown for its time."""
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=list(milliseconds), loop=0)
    return buffer.getvalue()
