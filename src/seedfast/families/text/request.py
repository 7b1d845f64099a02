"""Requests for text, the canvas that a sampler fills, and the finished texts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.text import Text
from torch import Tensor

from seedfast.console import animates, shown
from seedfast.errors import UserError
from seedfast.families.film import TextFilm, TextFrame
from seedfast.families.generator import Samples
from seedfast.families.text.categorical import check_shaping
from seedfast.families.text.written import Choice
from seedfast.files import finite, to_json

DEMO_TEXTS, DEMO_TOKENS = 2, 128
"""The showcase of a training: texts, and the largest number of tokens that each gets."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A request for text. Without prompt and infill, text is generated from nothing. Given text is never altered."""

    prompt: tuple[str, ...] = ()
    """Text to continue; may be repeated."""
    infill: str | None = None
    """Text with gaps, each written ⟨gap:20⟩ or <gap:20> for twenty tokens."""
    canvas: Annotated["Canvas | None", tyro.conf.Suppress] = None
    """Token ids with open positions, for a request without prompts."""
    num: int = 1
    """Samples for each prompt."""
    tokens: int | None = None
    """Tokens to generate (default: as many as fit into the model's context). Longer text is written on from its last
    half context: one token after the other, or window by window."""
    temperature: float = 1.0
    """Below 1 favours likely tokens, above 1 flattens the distribution; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the smallest set of likeliest tokens whose probability reaches p."""
    trace: bool = False
    """Show the text after every step: on a terminal as an animation, elsewhere one after the other."""
    on_frame: Annotated[Callable[[TextFrame], None] | None, tyro.conf.Suppress] = None
    """Called with each frame of the first sample during generation."""
    explain: bool = False
    """Show of every written token its probability, rank and entropy, the number that drew it and that number's key."""

    def __post_init__(self) -> None:
        check_shaping(self.temperature, self.top_k, self.top_p)
        at_least_one(num=self.num, tokens=self.tokens)
        if self.infill is not None and (self.prompt or self.tokens is not None):
            raise UserError(
                "An infill has its own text and gap lengths, so it cannot be combined with a prompt or a token count."
            )

    @property
    def count(self) -> int:
        """Number of samples."""
        return max(1, len(self.prompt)) * self.num

    @property
    def why_no_likelihood(self) -> str | None:
        """Why the probability of a text that is decoded so has no closed form, as a sentence; None where it has one."""
        return None

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words, with the number of network evaluations."""
        return ", ".join(self.shaping)

    def evaluations(self, tokens: int) -> int:
        """Network evaluations for so many open positions, which fit into a window."""
        return tokens

    @property
    def shaping(self) -> list[str]:
        """How the distributions over tokens are shaped, in words."""
        found = {"temperature": self.temperature, "top-k": self.top_k, "top-p": self.top_p}
        return [f"{name} {value:g}" for name, value in found.items() if value is not None]


@dataclass(frozen=True)
class Canvas:
    """A text with open positions.

    tokens_L: int64 token ids, arbitrary at open positions. fixed_L: bool, false at open positions. is_begun: whether
    the tokens hold all that a causal model reads, its beginning-of-text included, if it has one.
    """

    tokens_L: Tensor
    fixed_L: Tensor
    is_begun: bool = False

    @classmethod
    def of(cls, parts: list[tuple[list[int], bool]]) -> "Canvas":
        """Concatenate (token ids, whether they are fixed) parts."""
        tokens = [token for ids, _ in parts for token in ids]
        fixed = [is_fixed for ids, is_fixed in parts for _ in ids]
        return cls(torch.tensor(tokens, dtype=torch.int64), torch.tensor(fixed, dtype=torch.bool))

    @classmethod
    def first_half(cls, tokens_L: Tensor) -> "Canvas":
        """A text whose second half is open, up to `DEMO_TOKENS` of it."""
        given = len(tokens_L) // 2
        return cls(tokens_L[: given + DEMO_TOKENS], torch.arange(min(len(tokens_L), given + DEMO_TOKENS)) < given)

    @classmethod
    def with_gap(cls, tokens_L: Tensor) -> "Canvas":
        """A text with a gap of up to twenty tokens in its middle."""
        gap = max(1, min(20, len(tokens_L) // 4))
        start = (len(tokens_L) - gap) // 2
        fixed_L = torch.ones_like(tokens_L, dtype=torch.bool)
        fixed_L[start : start + gap] = False
        return cls(tokens_L, fixed_L)

    @property
    def is_infill(self) -> bool:
        """Whether a fixed token follows an open position."""
        return any(later and not earlier for earlier, later in pairwise(self.fixed_L.tolist()))


@dataclass(frozen=True, repr=False)
class TextSamples(Samples):
    """Finished texts.

    pieces[i]: sample i as (text, whether it was fixed) parts. filmed[i]: the frames of sample i, if traced.
    fixed[i]: whether each token of sample i was given. choices[i]: every token that was written for sample i, in the
    order of writing, where that was requested.
    """

    texts: list[str]
    tokens: list[list[int]]
    pieces: list[list[tuple[str, bool]]]
    fixed: list[list[bool]]
    filmed: list[TextFilm] = field(default_factory=list)
    choices: list[list[Choice]] = field(default_factory=list)

    @property
    def written(self) -> list[list[int]]:
        """The generated tokens of each sample."""
        return [
            [token for token, given in zip(tokens, fixed, strict=True) if not given]
            for tokens, fixed in zip(self.tokens, self.fixed, strict=True)
        ]

    @property
    def films(self) -> list[TextFilm]:
        """The frames of each sample, if traced."""
        return self.filmed

    @property
    def frames(self) -> list[list[str]]:
        """Each sample after every step, if traced."""
        return [[frame.text for frame in film[1:]] for film in self.films]

    @property
    def log_probs(self) -> list[float]:
        """The log-probability in nats of all that was written for each sample; nothing unless `choices` are there."""
        return [math.fsum(choice.log_prob for choice in choices) for choices in self.choices]

    def __str__(self) -> str:
        return "\n\n".join(self.texts)

    def __repr__(self) -> str:
        return f"<{len(self.texts)} texts, {sum(map(len, self.written))} generated tokens>"

    def _repr_html_(self) -> str:
        """The texts in a notebook; generated text is bold."""
        blocks = [
            "".join(escape(piece) if is_fixed else f"<b>{escape(piece)}</b>" for piece, is_fixed in pieces)
            for pieces in self.pieces
        ]
        return "".join(f'<pre style="white-space: pre-wrap">{block}</pre>' for block in blocks)

    def show(self, console: Console) -> None:
        """Print the texts; on a terminal generated text is bold, elsewhere the frames of a trace come before it."""
        for number, pieces in enumerate(self.pieces):
            if number:
                console.rule(style="dim")
            if not animates(console):  # the exact text: rich would expand tabs and drop control characters
                frames = self.frames[number] if self.films else []
                console.file.writelines(
                    f"step {step + 1}\n{shown(frame, console)}\n" for step, frame in enumerate(frames)
                )
                console.file.write(shown(self.texts[number], console) + "\n")
                console.file.writelines(f"{line}\n" for line in self.explanation(number))
                continue
            text = Text()
            for piece, is_fixed in pieces:
                text.append(shown(piece, console), style="" if is_fixed else "bold green")
            console.print(text, soft_wrap=True)
            for line in self.explanation(number):
                console.print(Text(line), soft_wrap=True)

    def explanation(self, number: int) -> list[str]:
        """How each token of a sample was written, as lines of a table; nothing unless `choices` are there."""
        if not self.choices:
            return []
        lines = [
            f"{'step':>5} {'place':>5} {'token':<14} {'probability':>11} {'rank':>6} {'entropy':>8} {'draw':>9}  key"
        ]
        for each in self.choices[number]:
            token = repr(each.text) if each.kept else f"({each.text!r})"
            lines.append(
                f"{each.step:>5} {each.place:>5} {token:<14} {math.exp(each.log_prob):>11.6f} {each.rank:>6} "
                f"{each.entropy:>8.4f} {each.draw:>9.6f}  {each.key}"
            )
        cut = " (tokens in brackets were cut off)" if not all(each.kept for each in self.choices[number]) else ""
        total = self.log_probs[number]
        return [*lines, f"log-probability of the {len(lines) - 1} written tokens: {total:.6f} nats{cut}"]

    def files(self) -> dict[str, bytes]:
        """samples.txt, and explanation.json where every token is explained."""
        texts = {"samples.txt": ("\n\n--------\n\n".join(self.texts) + "\n").encode()}
        if not self.choices:
            return texts
        explained = [
            {"text": text, "log_prob": finite(total), "tokens": [each.record() for each in choices]}
            for text, total, choices in zip(self.texts, self.log_probs, self.choices, strict=True)
        ]
        return texts | {"explanation.json": to_json({"samples": explained}).encode()}


def at_least_one(**counts: int | None) -> None:
    """Raise UserError for a count below 1, naming it; None means the default."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, not {value}.")
