"""The sampler of autoregressive models: continue prompts token by token, with a key-value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from seedfast.console import track
from seedfast.errors import UserError
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.request import TextRequest, at_least_one


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
    def decoding(self) -> str:
        """How the text is decoded, in words. Draws from the whole distribution are the default: they are the model."""
        way = f"{self.candidates} candidates for each gap" if self.infill else "one network evaluation for each token"
        return ", ".join([way, *self.shaping])


class Vocabulary(Protocol):
    """What of a generator the sampler uses."""

    end_of_text: int

    def begin(self, tokens: list[int]) -> list[int]:
        """A text as the network reads it, which is never empty: after the beginning-of-text, if there is one."""
        ...

    def forbid(self, logits: Tensor) -> None:
        """Set the logits of ids that are never generated to -inf, in place."""
        ...


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
) -> list[list[int]]:
    """The tokens that follow each prompt, up to `counts` of them, fewer if the text ends. Prompts may differ in length.

    may_end: whether end-of-text may be generated. are_begun: whether the prompts hold all that the network reads, as
    rendered chats do; else each is read after the beginning-of-text. cached=False
    recomputes every position for each token: the same text, slowly (the reference of tests).
    """
    draws, request, network = decoding.draws, decoding.request, decoding.network
    cached = cached and bool(network.has_cache)
    starts = prompts if are_begun else [vocabulary.begin(prompt) for prompt in prompts]
    tokens_BL, real_BL = _padded(starts, vocabulary.end_of_text, decoding.device)
    is_ragged = not bool(real_BL.all())
    slots = tokens_BL.shape[1] + max(counts) - 1
    cache: Any = network.cache(len(prompts), slots) if cached else None  # type: ignore[operator]
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # the unfinished ones
    for step in track("Sampling", range(max(counts)), max(counts)):
        new = slice(-1, None) if cached and step else slice(None)
        padding_BL = real_BL[:, new] if is_ragged else None
        logits_BV = network(tokens_BL[:, new], real_BL=padding_BL, cache=cache)[:, -1].double()
        vocabulary.forbid(logits_BV)
        if not may_end:
            logits_BV[:, vocabulary.end_of_text] = -torch.inf
        probabilities_BV = shape(logits_BV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
        next_B = draw(probabilities_BV, draws.at(step).uniform("token", 1, dtype=torch.float64)[:, 0])
        unfinished = []
        for index, (row, token) in enumerate(zip(rows, next_B.tolist(), strict=True)):
            if token == vocabulary.end_of_text:
                continue
            written[row].append(token)
            if len(written[row]) < counts[row]:
                unfinished.append(index)
            if decoding.trace:
                text = prompts[row] + written[row]
                decoding.trace(row, text, [False] * len(text))
        if not unfinished:
            break
        select = torch.tensor(unfinished, device=tokens_BL.device)
        tokens_BL = torch.cat([tokens_BL, next_B.unsqueeze(1)], dim=1)[select]
        real_BL = F.pad(real_BL, (0, 1), value=True)[select]
        if len(unfinished) < len(rows):
            rows = [rows[index] for index in unfinished]
            draws = replace(draws, positions_B=draws.positions_B[select])
            if cached:
                cache.select(select)
    return written


def _padded(starts: Sequence[list[int]], end_of_text: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Beginnings of texts as one batch, padded on the left, and bool [B, L], false at padding."""
    width = max(map(len, starts))
    tokens = [[end_of_text] * (width - len(start)) + start for start in starts]
    real = [[False] * (width - len(start)) + [True] * len(start) for start in starts]
    return torch.tensor(tokens, device=device), torch.tensor(real, device=device)
