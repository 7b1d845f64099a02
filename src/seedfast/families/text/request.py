"""Requests for text, the canvas that a sampler fills, and the finished texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.text import Text
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.family import Samples
from seedfast.families.text.categorical import check_shaping
from seedfast.files import commit

Show = Callable[[int, Sequence[int], Sequence[bool]], None]
"""How a sampler traces: it is told the row, its tokens, and which of them are still open."""

OPEN = "░"
"""How a position that is still open is shown in a trace."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """What is wanted of a text model: with neither prompt nor infill, text from nothing.

    Given text is never altered.
    """

    prompt: tuple[str, ...] = ()
    """A beginning to continue; may be said several times."""
    infill: str | None = None
    """A text with gaps, each written ⟨gap:20⟩ or <gap:20> for twenty tokens."""
    canvas: Annotated["Canvas | None", tyro.conf.Suppress] = None
    """Token ids with open positions, instead of text."""
    num: int = 1
    """Samples for each prompt."""
    tokens: int | None = None
    """Tokens to write (default: as many as the model's context has room for)."""
    temperature: float = 1.0
    """Below 1 likelier, above 1 more varied; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens whose probability reaches p."""
    trace: bool = False
    """Show the text at every step."""

    def __post_init__(self) -> None:
        check_shaping(self.temperature, self.top_k, self.top_p)
        at_least_one(num=self.num, tokens=self.tokens)
        if self.infill is not None and (self.prompt or self.tokens is not None):
            raise UserError(
                "An infill has its own text and gap lengths; it goes with neither a prompt nor a token count."
            )

    @property
    def count(self) -> int:
        """How many samples are asked for."""
        return max(1, len(self.prompt)) * self.num


@dataclass(frozen=True)
class Canvas:
    """A text with open positions: int64 [L] token ids (any at open positions) and bool [L], true where given."""

    tokens_L: Tensor
    given_L: Tensor

    @classmethod
    def of(cls, parts: list[tuple[list[int], bool]]) -> "Canvas":
        """A canvas of (token ids, are they given) parts, in a row."""
        tokens = [token for ids, _ in parts for token in ids]
        given = [is_given for ids, is_given in parts for _ in ids]
        return cls(torch.tensor(tokens, dtype=torch.int64), torch.tensor(given, dtype=torch.bool))

    @property
    def is_infill(self) -> bool:
        """Whether something given stands after something open."""
        return any(later and not earlier for earlier, later in pairwise(self.given_L.tolist()))


@dataclass(frozen=True)
class TextSamples(Samples):
    """Finished texts.

    pieces[i]: sample i as (text, was it given) parts. frames[i]: sample i at every step, if a trace was asked for.
    """

    texts: list[str]
    tokens: list[list[int]]
    pieces: list[list[tuple[str, bool]]]
    frames: list[list[str]] = field(default_factory=list)
    written: list[list[int]] = field(default_factory=list)
    """Of each sample, the tokens that were not given."""

    def show(self, console: Console) -> None:
        """Print the texts; on a terminal what was written stands out from what was given."""
        for number, pieces in enumerate(self.pieces):
            frames = self.frames[number] if self.frames else []
            if number:
                console.rule(style="dim")
            if not console.is_terminal:  # exactly the text: a terminal's niceties would expand tabs and drop controls
                console.file.writelines(f"step {step + 1}\n{frame}\n" for step, frame in enumerate(frames))
                console.file.write(self.texts[number] + "\n")
                continue
            for step, frame in enumerate(frames):
                console.print(Text(f"step {step + 1}", style="dim"))
                console.print(Text(frame), soft_wrap=True)
            text = Text()
            for piece, given in pieces:
                text.append(piece, style="" if given else "bold green")
            console.print(text, soft_wrap=True)

    def save(self, folder: Path) -> list[Path]:
        """Write `samples.txt`."""
        commit(folder / "samples.txt", "\n\n--------\n\n".join(self.texts) + "\n")
        return [folder / "samples.txt"]


def at_least_one(**counts: int | None) -> None:
    """Raise UserError for a count below 1, by its name; None asks for the default."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, not {value}.")
