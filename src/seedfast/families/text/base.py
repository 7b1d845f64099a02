"""What the text families share: their data's assets, and how a request for text becomes canvases and then texts."""

import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import Family, State, Task
from seedfast.families.text.preview import END, GLYPHS, Exercise, Signs
from seedfast.families.text.request import OPEN, Canvas, Show, TextRequest, TextSamples
from seedfast.keys import Draws

_GAP = re.compile(r"[⟨<]gap:(\d+)[⟩>]")


class TextFamily(Family):
    """A family over the token windows of text data."""

    counts = "tokens"
    takes_prompts = False
    """Whether the text before a window (`data.prompt`) is of use to it."""
    learns_lengths = False
    """Whether it says how long a window's text is: only then may windows be padded (`data.apart`)."""

    def __init__(self, assets: TextAssets) -> None:
        if assets.prompt and not self.takes_prompts:
            raise UserError(
                f"data.prompt={assets.prompt} gives each window the text before it, of which this kind of model makes "
                "no use: set it to 0."
            )
        if assets.apart and not self.learns_lengths:
            raise UserError(
                "data.apart pads the windows of short documents, and this kind of model does not learn how long they "
                "are: leave it out."
            )
        self.assets = assets
        self.vocabulary = assets.tokenizer.size
        self.end_of_text = assets.tokenizer.end_of_text
        # Identity 10: the nats of all scored tokens, over ln 2 and the UTF-8 bytes of the raw text that they encode.
        self.units = {"bits_per_byte": assets.tokens_per_byte / math.log(2)}

    def sample(self, network: nn.Module, request: TextRequest, draws: Draws, state: State) -> TextSamples:
        """Write texts. Raises UserError where the request does not fit the model."""
        canvases = [canvas for canvas in self.canvases(request) for _ in range(request.num)]
        frames: list[list[str]] = [[] for _ in canvases]

        def show(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
            frames[row].append(self.text(tokens, is_open))

        filled = self.fill(network, canvases, request, draws, show if request.trace else None)
        for tokens, canvas in zip(filled, canvases, strict=True):
            kept = canvas.given_L[: len(tokens)]
            assert torch.equal(torch.tensor(tokens)[kept], canvas.tokens_L[: len(tokens)][kept]), (
                "a given token was altered"
            )
        texts = [self.assets.tokenizer.decode(tokens) for tokens in filled]
        pieces = [self._pieces(tokens, canvas) for tokens, canvas in zip(filled, canvases, strict=True)]
        written = [
            [token for token, given in zip(tokens, canvas.given_L.tolist(), strict=False) if not given]
            for tokens, canvas in zip(filled, canvases, strict=True)
        ]
        return TextSamples(texts, filled, pieces, frames if request.trace else [], written)

    def _pieces(self, tokens: list[int], canvas: Canvas) -> list[tuple[str, bool]]:
        marked = zip(tokens, canvas.given_L.tolist(), strict=False)  # a continuation may have ended early
        groups = groupby(marked, key=lambda pair: pair[1])
        return [(self.assets.tokenizer.decode([token for token, _ in group]), given) for given, group in groups]

    @abstractmethod
    def fill(
        self,
        network: nn.Module,
        canvases: list[Canvas],
        request: Any,
        draws: Draws,
        show: Show | None,
    ) -> list[list[int]]:
        """Fill each canvas; a continuation ends before its first end-of-text. `show(row, tokens, open)` traces."""

    def canvases(self, request: TextRequest) -> list[Canvas]:
        """One canvas for each prompt, or the infill's, or an empty one.

        Raises UserError for text longer than the context, an infill without a gap, a character outside the alphabet.
        """
        if request.canvas is not None:
            return [request.canvas]
        if request.infill is not None:
            return [self._infill(request.infill)]
        rows = []
        for prompt in request.prompt or ("",):
            given = self.read(prompt, request)
            room = self.room(len(given))
            count = request.tokens if request.tokens is not None else room
            if count < 1 or count > room:
                raise UserError(
                    f"The prompt has {len(given)} tokens and {max(count, 1)} more are asked for, but this model was "
                    f"trained on {self.assets.context} tokens at most; shorten the prompt or lower the token count."
                )
            rows.append(Canvas.of([(given, True), ([self.end_of_text] * count, False)]))
        return rows

    def room(self, prompt: int) -> int:
        """How many tokens can be written after a prompt of so many."""
        return self.assets.context - prompt

    def read(self, prompt: str, request: TextRequest) -> list[int]:
        """The ids of a prompt."""
        return self.assets.tokenizer.encode(prompt)

    def forbid(self, logits: Tensor) -> None:
        """Rule out, in place, the ids that stand for no text, so that no finished text has a special token."""
        logits[..., self.vocabulary :] = -torch.inf  # a pretrained network may have more outputs than tokens
        if self.assets.tokenizer.silent:
            logits[..., list(self.assets.tokenizer.silent)] = -torch.inf

    def excerpt(self, validation: Dataset) -> Tensor:
        """Token ids of held-out text, int64 [L]: the longest piece of one document in a window, of the middle ones."""
        count = len(validation)
        nearby = [(count // 2 + index) % count for index in range(min(8, count))]
        whole = []
        for tokens_L in validation.batch(nearby)["tokens"][:, 1:]:
            ends = (tokens_L == self.end_of_text).nonzero()[:, 0].tolist()
            cuts = pairwise([0, *(end + 1 for end in ends), len(tokens_L) + 1])
            pieces = [tokens_L[start:stop] for start, stop in cuts]
            whole += [piece[piece != self.end_of_text] for piece in pieces]
        longest: Tensor = max(whole, key=len)
        return longest

    def exercises(self, batch: Batch, task: Task) -> list[Exercise]:
        """What each example of a batch is asked, for people to look at."""
        return [Exercise(self.signs(tokens)) for tokens in batch["tokens"][:, 1:].tolist()]

    def signs(self, tokens: Sequence[int], roles: Sequence[str] | None = None) -> Signs:
        """Tokens for people to look at: neighbours of one role together, no line breaks, a glyph where no word is."""
        pairs = zip(tokens, roles or ["word"] * len(tokens), strict=True)
        found = []
        for (role, is_end), group in groupby(pairs, key=lambda pair: (pair[1], pair[0] == self.end_of_text)):
            ids = [token for token, _ in group]
            glyph = GLYPHS.get(role, END if is_end else None)
            found.append((glyph * len(ids) if glyph else self._line(ids), role))
        return found

    def _line(self, tokens: list[int]) -> str:
        return self.assets.tokenizer.decode(tokens).replace("\n", "⏎").replace("\t", "→")

    def _infill(self, text: str) -> Canvas:
        parts: list[tuple[list[int], bool]] = []
        position = 0
        for gap in _GAP.finditer(text):
            if len(gap[1]) > 9 or int(gap[1]) > self.assets.context:
                raise UserError(
                    f"A gap of {gap[1]} tokens is longer than this model's context of {self.assets.context}."
                )
            parts.append((self.assets.tokenizer.encode(text[position : gap.start()]), True))
            parts.append(([self.end_of_text] * int(gap[1]), False))
            position = gap.end()
        parts.append((self.assets.tokenizer.encode(text[position:]), True))
        canvas = Canvas.of(parts)
        if bool(canvas.given_L.all()):
            raise UserError(
                "The infill has no gap: write one as ⟨gap:20⟩ (or <gap:20>) where twenty tokens are missing."
            )
        if len(canvas.tokens_L) > self.assets.context:
            raise UserError(
                f"The infill has {len(canvas.tokens_L)} tokens with its gaps, but this model was trained on "
                f"{self.assets.context} at most; shorten it."
            )
        return canvas

    def text(self, tokens: Sequence[int], is_open: Sequence[bool]) -> str:
        """Decode tokens, with a sign for each position that is still open."""
        parts: list[str] = []
        run: list[int] = []
        for token, hole in zip(tokens, is_open, strict=True):
            if not hole:
                run.append(token)
                continue
            parts += [self.assets.tokenizer.decode(run), OPEN]
            run = []
        return "".join([*parts, self.assets.tokenizer.decode(run)])

    def until_end(self, tokens: list[int], canvas: Canvas) -> list[int]:
        """Cut a continuation before the first end-of-text that was written."""
        for index, (token, given) in enumerate(zip(tokens, canvas.given_L.tolist(), strict=True)):
            if token == self.end_of_text and not given:
                return tokens[:index]
        return tokens
