"""The sampler of autoregressive models: continue prompts token by token, with a key-value cache.

Text that is longer than the context slides: when the network has read `context` tokens, it reads the last half of them
again (after the beginning-of-text, if the tokenizer has one) and goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
import tyro
from torch import Tensor

from seedfast.console import track
from seedfast.errors import UserError
from seedfast.families.text.categorical import sample, shape
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.request import TextRequest, at_least_one
from seedfast.families.text.written import STREAM, Written


@dataclass(frozen=True, kw_only=True)
class AutoregressiveRequest(TextRequest):
    """A request to an autoregressive model."""

    candidates: int = 16
    """Infill: candidates for each gap, weighed by the likelihood of the text after it."""
    chat: bool = False
    """Treat each prompt as a user message and apply the chat template of the tokenizer."""
    on_token: Annotated[Callable[[str], None] | None, tyro.conf.Suppress] = None
    """Called with each new piece of the one sample during generation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(candidates=self.candidates)
        if self.chat and not self.prompt:
            raise UserError("A chat begins with a user message: give it as --prompt.")
        if self.on_token and (self.count > 1 or self.infill is not None):
            raise UserError("Only one continuation can be streamed: request one sample and no infill.")

    @property
    def why_no_likelihood(self) -> str | None:
        """Infills are resampled."""
        if self.infill is None and not (self.canvas and self.canvas.is_infill):
            return None
        return (
            "A gap is filled with one of several candidates, whose probability has no closed form: leave --infill out."
        )

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words. Draws from the whole distribution are the default: they are the model."""
        way = f"{self.candidates} candidates for each gap" if self.infill else "one network evaluation for each token"
        return ", ".join([way, *self.shaping])


class Vocabulary(Protocol):
    """What of a generator the sampler uses."""

    end_of_text: int
    context: int
    """The most tokens that the network reads at once."""

    def begin(self, tokens: list[int]) -> list[int]:
        """A text as the network reads it, which is never empty: after the beginning-of-text, if there is one."""
        ...

    def forbid(self, logits: Tensor) -> None:
        """Set the logits of ids that are never generated to -inf, in place."""
        ...


class _Text:
    """A text while it is written. window: what the network reads of it. left: how many tokens it still lacks.

    held: the tokens of a forced text, which no end-of-text ends.
    """

    def __init__(
        self,
        row: int,
        prompt: list[int],
        count: int,
        vocabulary: Vocabulary,
        *,
        is_begun: bool,
        held: list[int] | None = None,
    ) -> None:
        self.row, self.tokens, self.left, self.vocabulary = row, [*prompt], count, vocabulary
        self.held = held
        self.window = [*prompt] if is_begun else vocabulary.begin([*prompt])

    def slide(self) -> None:
        """Where the window is longer than the context, read the last half of it again."""
        context = self.vocabulary.context
        if len(self.window) > context:
            self.window = self.vocabulary.begin(self.tokens[-max(1, context // 2) :])[-context:]

    def add(self, token: int) -> None:
        """Append a token, or end the text with its end-of-text."""
        if token == self.vocabulary.end_of_text and self.held is None:
            self.left = 0
        elif self.left:
            self.tokens.append(token)
            self.window.append(token)
            self.left -= 1

    @property
    def next_held(self) -> int:
        """The next token of a forced text; of one that is complete, its last."""
        assert self.held is not None
        return self.held[-max(1, self.left)]


@torch.no_grad()
def continue_prompts(
    vocabulary: Vocabulary,
    decoding: Decoding[AutoregressiveRequest],
    prompts: Sequence[list[int]],
    counts: Sequence[int],
    *,
    may_end: bool = True,
    are_begun: bool = False,
    cached: bool = True,
    held: Sequence[list[int]] | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to `counts` of them, fewer if the text ends. Prompts may differ in length.

    may_end: whether end-of-text may be generated. are_begun: whether the prompts hold all that the network reads, as
    rendered chats do; else each is read after the beginning-of-text. cached=False recomputes every position for each
    token: the same text, slowly (the reference of tests). held: the tokens of forced texts.
    """
    texts = [
        _Text(row, prompt, count, vocabulary, is_begun=are_begun, held=held[row] if held else None)
        for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
    ]
    most = max(counts)
    u_SB = decoding.draws.uniform_of_stages(range(most), STREAM)
    progress = iter(track("Sampling", range(most), most))
    cached = cached and bool(decoding.network.has_cache)
    read = decoding.network.reader() if cached else None  # type: ignore[operator]
    done, rest = 0, [text for text in texts if text.left]
    while rest:  # each time as far as the shortest window reaches
        for text in rest:
            text.slide()
        rooms = [(vocabulary.context + 1 - len(text.window), text.left) for text in rest]
        shortest = min((room for room, left in rooms if left > room), default=max(text.left for text in rest))
        reader = _Reader(decoding, vocabulary, rest, shortest if cached else 1, read, may_end=may_end)
        for _ in range(reader.steps):
            reader.step(u_SB[done], done)
            next(progress, None)
            done += 1
            if not reader.texts:
                break
        rest = [text for text in reader.texts if text.left]
    next(progress, None)
    return [text.tokens[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


class _Reader:
    """A batch of texts whose windows the network reads once, and then one more token of each for every step.

    steps: how many tokens are drawn for each text at most, for which the cache has room. read: the network's `reader`,
    for more than one step.
    """

    def __init__(
        self,
        decoding: Decoding[AutoregressiveRequest],
        vocabulary: Vocabulary,
        texts: list[_Text],
        steps: int,
        read: Callable[[Tensor, Any], Tensor] | None,
        *,
        may_end: bool,
    ) -> None:
        network, self.decoding, self.texts, self.steps = decoding.network, decoding, texts, steps
        self.read = read
        tokens_BL, real_BL = _padded([text.window for text in texts], vocabulary.end_of_text, decoding.device)
        self.is_ragged = not bool(real_BL.all())
        size, length = tokens_BL.shape
        self.cache: Any = network.cache(size, length + steps - 1) if steps > 1 else None  # type: ignore[operator]
        self.logits_BV: Tensor
        if self.is_ragged or self.cache is None or read is None:
            last_B = torch.arange(length - 1, size * length, length, device=decoding.device)
            padding_BL = real_BL if self.is_ragged else None
            self.logits_BV = network(tokens_BL, real_BL=padding_BL, cache=self.cache, where_N=last_B)
        else:
            self.logits_BV = read(tokens_BL, self.cache)
        decoding.evaluations.count += 1
        self.next_B: Tensor | None = None
        self.rows_B = torch.tensor([text.row for text in texts], device=decoding.device)
        # A forced text is scored by the model itself, whose distribution has every token.
        self.forbidden_V = None if decoding.forced else self._forbidden(vocabulary, may_end=may_end)

    def _forbidden(self, vocabulary: Vocabulary, *, may_end: bool) -> Tensor | None:
        """The tokens that are never generated, bool [V]; None if there are none."""
        logits_V = torch.zeros(self.logits_BV.shape[-1], device=self.logits_BV.device)
        vocabulary.forbid(logits_V)
        if not may_end:
            logits_V[vocabulary.end_of_text] = -torch.inf
        forbidden_V = logits_V.isinf()
        return forbidden_V if bool(forbidden_V.any()) else None

    def step(self, u_B: Tensor, number: int) -> None:
        """Draw the next token of each text, its number `number`, at the quantiles of its row."""
        request, decoding = self.decoding.request, self.decoding
        if self.next_B is not None:
            assert self.read is not None, "a cache is needed for more than one step"
            self.logits_BV = self.read(self.next_B.unsqueeze(1), self.cache)
            decoding.evaluations.count += 1
        logits_BV = self.logits_BV
        if self.forbidden_V is not None:
            logits_BV = torch.where(self.forbidden_V, -torch.inf, logits_BV)
        u_B = u_B if len(u_B) == len(self.texts) else u_B[self.rows_B]
        shaping: dict[str, Any] = {
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
        }
        if decoding.forced:
            held_B = torch.tensor([text.next_held for text in self.texts], device=u_B.device)
            self.next_B = decoding.forced_tokens(shape(logits_BV, **shaping), held_B)
        else:
            self.next_B = sample(logits_BV, u_B, **shaping)
        if decoding.record:
            self._record(logits_BV, u_B, number)
        for text, token in zip(self.texts, self.next_B.tolist(), strict=True):
            before = len(text.tokens)
            text.add(token)
            if decoding.trace and len(text.tokens) > before:
                decoding.trace(text.row, text.tokens, [False] * len(text.tokens))
        self._keep([index for index, text in enumerate(self.texts) if text.left])

    def _record(self, logits_BV: Tensor, u_B: Tensor, number: int) -> None:
        """Record the tokens of the texts that are not finished."""
        request, draws = self.decoding.request, self.decoding.draws
        assert self.decoding.record is not None
        assert self.next_B is not None
        left_N = torch.tensor([row for row, text in enumerate(self.texts) if text.left], device=u_B.device)
        places = [len(self.texts[row].tokens) for row in left_N.tolist()]
        probabilities_NV = shape(
            logits_BV[left_N].double(), temperature=request.temperature, top_k=request.top_k, top_p=request.top_p
        )
        written = Written.of(
            probabilities_NV,
            tokens_N=self.next_B[left_N],
            rows_N=self.rows_B[left_N],
            places_N=torch.tensor(places, device=u_B.device),
            u_N=u_B[left_N],
            index_N=torch.zeros_like(left_N),
            step=number,
            draws=draws.at(number),
        )
        self.decoding.record(written)

    def _keep(self, unfinished: list[int]) -> None:
        """Drop the finished texts.

        That copies the whole cache, so a few are computed along, except where they could run out of positions.
        """
        size = len(self.texts)
        if len(unfinished) == size or (unfinished and not self.is_ragged and 4 * len(unfinished) > 3 * size):
            return
        self.texts = [self.texts[index] for index in unfinished]
        if unfinished and self.next_B is not None:
            select = torch.tensor(unfinished, device=self.rows_B.device)
            self.rows_B, self.next_B = self.rows_B[select], self.next_B[select]
            if self.cache is not None:
                self.cache.select(select)


def _padded(starts: Sequence[list[int]], end_of_text: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Beginnings of texts as one batch, padded on the left, and bool [B, L], false at padding."""
    width = max(map(len, starts))
    tokens = [[end_of_text] * (width - len(start)) + start for start in starts]
    real = [[False] * (width - len(start)) + [True] * len(start) for start in starts]
    return torch.tensor(tokens, device=device), torch.tensor(real, device=device)
