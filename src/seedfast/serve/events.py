"""What is to be written, and what happens while it is: between the models, which write, and HTTP, which answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from seedfast.errors import UserError
from seedfast.serve.engine import Row
from seedfast.serve.unfolding import Piece

Reason = Literal["stop", "length"]


class UnableError(UserError):
    """A request that is well formed, but that this model cannot do."""


@dataclass(frozen=True)
class Delta:
    """The next piece of a choice."""

    choice: int
    piece: Piece


@dataclass(frozen=True)
class Frame:
    """A choice after a step of denoising, with a placeholder for each open position."""

    choice: int
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a choice, after this many written tokens: at a stop or its own end, or at the number requested."""

    choice: int
    reason: Reason
    tokens: int


Event = Delta | Frame | Ended
Emit = Callable[[Event], None]
Work = Callable[[Row], None]


@dataclass(frozen=True)
class Plan:
    """A request that can be carried out.

    choices: how many texts. prompt_tokens: of all prompts. works: the rows that write them, given where events go.
    """

    choices: int
    prompt_tokens: int
    works: Callable[[Emit], Sequence[Work]]
