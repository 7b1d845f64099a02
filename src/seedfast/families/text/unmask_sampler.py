"""The sampler of masked diffusion: unmask open positions in parallel steps, in any order.

The choice of positions never depends on the tokens that are about to be drawn, so the product of the probabilities of
all tokens is that of the text (docs/identities.md#deployed-likelihood), and one position a step follows the chain rule
and draws exactly from the model (docs/identities.md#sampler-exactness).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seedfast.console import track
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.positions import first
from seedfast.families.text.request import Canvas, TextRequest, at_least_one
from seedfast.families.text.written import STREAM, Record, Written
from seedfast.keys import Draws
from seedfast.models.token_network import SequenceInputs, TokenNetwork

LOGITS = 1 << 22
"""Largest number of logits in memory at once: 32 MiB in float64."""
Logits = Callable[[Tensor], Tensor]
"""Flattened positions [N] → their logits [N, V]."""
CONFIDENCE_LEVELS = 1 << 10
"""Confidence is compared in steps of 1/1024, and of equal positions the first comes first: without it, rounding, which
depends on the batch, would decide between equally likely positions, such as those of an empty text."""
NoiseSchedule = Literal["linear", "cosine", "polynomial"]


def alpha(schedule: str, t: Tensor) -> Tensor:
    """The probability that a token is still visible at time t in [0, 1]: 1 at t = 0, 0 at t = 1."""
    match schedule:
        case "linear":
            return 1 - t
        case "cosine":
            return 1 - torch.cos(math.pi / 2 * (1 - t))
        case "polynomial":
            return 1 - t**2
    raise ValueError(f"no noise schedule is called {schedule}")


# The default decoding: one network evaluation for each token, at random positions, which draws exactly from the model.
# By a judge (`bench/decoding.py`, 700 steps on tinyshakespeare, two seeds of 32 texts) it has 3.65 ± 0.05 nats a token,
# in the order of confidence 3.56 ± 0.05, in half the steps 3.73 ± 0.07; at temperature 0.8 it has 3.26, but of duller
# text: the entropy is 2.74, and that of real text 2.91.
@dataclass(frozen=True, kw_only=True)
class MaskedRequest(TextRequest):
    """A request to a masked diffusion model."""

    steps: int | None = None
    """Parallel decoding steps (default: one for each token); of a text longer than the context, those of a window."""
    order: Literal["random", "confidence", "ancestral"] = "random"
    """Which positions are unmasked first: random ones, those whose likeliest token is likeliest, or each at a random
    time of its own (MDLM's reverse process)."""
    remdm: float = 0.0
    """Strength η of remasking (ReMDM): each step masks some generated tokens again; 0 masks none."""
    remdm_rule: Literal["rescale", "cap"] = "rescale"
    """`rescale` remasks with η times the largest possible probability, `cap` with at most η."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps)
        if not 0 <= self.remdm <= 1:
            raise UserError(f"remdm must be in [0, 1], not {self.remdm}.")
        if self.remdm and (self.order != "ancestral" or self.steps is None):
            raise UserError("--remdm needs --order ancestral and a number of --steps.")
        if not self.remdm and self.remdm_rule != "rescale":
            raise UserError("--remdm-rule has no effect without --remdm.")

    @property
    def step_count(self) -> int | None:
        """The number of steps; None for one for each token."""
        return self.steps

    @property
    def why_no_likelihood(self) -> str | None:
        """Remasking writes a token several times."""
        if not self.remdm:
            return None
        return (
            "Remasking (--remdm) rewrites tokens, so the probability of a text is a sum over all ways to it: leave it "
            "out."
        )

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words, with the number of network evaluations."""
        steps = "one network evaluation for each token" if self.steps is None else f"{self.steps} network evaluations"
        remasking = [f"remasking {self.remdm:g} ({self.remdm_rule})"] if self.remdm else []
        return ", ".join([f"{self.order} order", *remasking, steps, *self.shaping])


@dataclass(frozen=True, kw_only=True)
class MaskedVocabulary:
    """The symbols of a masked diffusion model: `size` tokens, of which special ones are never generated, and [MASK]."""

    size: int
    end_of_text: int
    special_ids: tuple[int, ...]
    mask: int

    @classmethod
    def of(cls, assets: TextAssets, *, mask: int | None = None) -> "MaskedVocabulary":
        """The vocabulary of a tokenizer; [MASK] has the id after its last token, unless `mask` is given."""
        tokenizer = assets.tokenizer
        return cls(
            size=tokenizer.size,
            end_of_text=tokenizer.end_of_text,
            special_ids=tokenizer.never_generate,
            mask=tokenizer.size if mask is None else mask,
        )

    def probabilities(self, request: TextRequest, logits_NV: Tensor, may_end_N: Tensor) -> Tensor:
        """The distributions over tokens as a request shapes them, float64 [N, V].

        may_end_N: whether end-of-text may be generated; an infill continues after its gaps, so it cannot end in one.
        """
        logits_NV = logits_NV[..., : self.size].double()
        if self.special_ids:
            logits_NV[:, list(self.special_ids)] = -torch.inf
        logits_NV[:, self.end_of_text].masked_fill_(~may_end_N, -torch.inf)
        return shape(logits_NV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)


@dataclass(frozen=True)
class MaskedPage:
    """A batch of texts during unmasking: their tokens, which are open, and which may be changed at all, each [B, L]."""

    tokens_BL: Tensor
    open_BL: Tensor
    writable_BL: Tensor

    @property
    def written(self) -> Tensor:
        """The tokens that the model has generated."""
        return self.writable_BL & ~self.open_BL

    def remask(self, where_BL: Tensor, mask: int) -> "MaskedPage":
        """The page with these positions masked and open again."""
        return replace(self, tokens_BL=self.tokens_BL.masked_fill(where_BL, mask), open_BL=self.open_BL | where_BL)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One evaluation of the network.

    index: its number, from 0. left: how many follow. progress: the fraction of the unmasking steps after it.
    page: the network's input. logits: its output at N flattened positions, [N, V].
    count_B: positions that were open before the first step.
    draws: the randomness of this step. text_draws: that of the whole text, the same in every step.
    mask: the id of [MASK]. probabilities: the distributions over tokens, float64 [N, V], at N flattened positions.
    confidence: the largest probability there before temperature, top-k and top-p, float64 [N]. given_BL: the tokens to
    write instead of drawing some; None where they are drawn. record: called with what is written.
    """

    index: int
    left: int
    progress: float
    page: MaskedPage
    logits: Logits
    count_B: Tensor
    draws: Draws
    text_draws: Draws
    mask: int
    probabilities: Callable[[Tensor], Tensor]
    confidence: Callable[[Tensor], Tensor]
    symbols: int
    given_BL: Tensor | None = None
    record: Record | None = None

    def at(self, where_BL: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """`compute` of the N true positions of `where_BL`, [N, …], in parts of at most `LOGITS` logits."""
        where_N = where_BL.flatten().nonzero().squeeze(1)
        return torch.cat([compute(part_N) for part_N in torch.split(where_N, max(1, LOGITS // self.symbols))])


@dataclass(frozen=True)
class Policy:
    """The steps of a request: which positions each unmasks, and which it masks again."""

    request: MaskedRequest
    schedule: NoiseSchedule

    def masked(self, progress: float) -> float:
        """The fraction of the open positions that is still masked after this fraction of the steps; 0 at the end.

        Without a number of steps, each step unmasks one token, whatever the schedule.
        """
        if progress == 1:
            return 0.0
        schedule = self.schedule if self.request.step_count else "linear"
        return float(1 - alpha(schedule, torch.tensor(1 - progress, dtype=torch.float64)))

    def select(self, step: Step) -> Tensor:
        """The open positions that a step unmasks, bool [B, L].

        random, confidence: a fixed number in each step. ancestral: MDLM's reverse process, in which each position has
        a time of its own and is unmasked by the step that passes it. ReMDM draws new times in each step.
        """
        open_BL, length = step.page.open_BL, step.page.open_BL.shape[1]
        if self.request.remdm:
            u_BL = step.draws.uniform("time", length, dtype=torch.float64)
            return open_BL & (u_BL < self.remdm_unmasked(step.index))
        masked = self.masked(step.progress)
        if self.request.order == "ancestral":
            return open_BL & (step.text_draws.uniform("time", length, dtype=torch.float64) >= masked)
        take_B = open_BL.sum(dim=1) - (step.count_B * masked).round().long()
        return first(-self.priority(step), open_BL, take_B)

    def priority(self, step: Step) -> Tensor:
        """The order in which open positions are unmasked, float64 [B, L], the highest first."""
        open_BL = step.page.open_BL
        if self.request.order == "random":
            return step.draws.uniform("position", open_BL.shape[1], dtype=torch.float64)
        top_N = (step.at(open_BL, step.confidence) * CONFIDENCE_LEVELS).round()
        return torch.zeros(open_BL.shape, dtype=torch.float64, device=open_BL.device).masked_scatter(open_BL, top_N)

    def revise(self, step: Step, page: MaskedPage) -> MaskedPage:
        """The page after a step, with some of the tokens that were generated before it masked again.

        ReMDM (Wang et al. 2025, "Remasking Discrete Diffusion Models with Inference-Time Scaling", equation 7): each
        generated token is masked with probability σ. The fraction of masked tokens remains that of the noise schedule,
        because correspondingly more are unmasked (`remdm_unmasked`).
        """
        if not self.request.remdm:
            return page
        u_BL = step.draws.uniform("remdm", page.tokens_BL.shape[1], dtype=torch.float64)
        return page.remask(step.page.written & (u_BL < self.sigma(step.index)), step.mask)

    def sigma(self, index: int) -> float:
        """ReMDM's σ of a step: at most min(1, (1 - α_s) / α_t), above which the schedule cannot hold."""
        request = self.request
        assert request.steps is not None
        visible, masked_after = 1 - self.masked(index / request.steps), self.masked((index + 1) / request.steps)
        most = min(1.0, masked_after / visible) if visible else 1.0
        return request.remdm * most if request.remdm_rule == "rescale" else min(request.remdm, most)

    def remdm_unmasked(self, index: int) -> float:
        """The fraction of masked tokens that a step of ReMDM unmasks: (α_s - (1 - σ) α_t) / (1 - α_t)."""
        assert self.request.steps is not None
        if index >= self.request.steps:
            return 1.0
        before, after = (self.masked(done / self.request.steps) for done in (index, index + 1))
        return (1 - after - (1 - self.sigma(index)) * (1 - before)) / before


@torch.no_grad()
def unmask(
    decoding: Decoding[Any],
    canvases: Sequence[Canvas],
    *,
    vocabulary: MaskedVocabulary,
    policy: Policy,
    revise: Callable[[Step, MaskedPage], MaskedPage] | None = None,
    passes: int = 0,
    predict: Callable[[Tensor, Tensor | None], Logits] | None = None,
) -> list[list[int]]:
    """Unmask the open positions of all canvases together; returns whole texts, one for each canvas.

    revise: what replaces `policy.revise` after each step; nothing may be open after the last.
    passes: evaluations of the network after the steps of the request, for a `revise` that uses them.
    predict: (token ids [B, L], true where they are no padding or None) → logits (default: the network's).
    """
    draws, request = decoding.draws, decoding.request
    revise = revise or policy.revise
    predict = predict or partial(predicted, decoding.network, documents_BL=decoding.documents_BL)
    page, real_BL, held_BL = _start(canvases, vocabulary, decoding.device)
    count_B = page.open_BL.sum(dim=1)
    padding_BL = None if bool(real_BL.all()) else real_BL
    may_end_B = torch.tensor([decoding.forced or not canvas.is_infill for canvas in canvases], device=decoding.device)
    may_end_N = may_end_B.repeat_interleave(page.tokens_BL.shape[1])
    steps = request.step_count or int(count_B.max())
    plain = replace(request, temperature=1.0, top_k=None, top_p=None)
    for index in track("Sampling", range(steps + passes), steps + passes):
        logits = predict(page.tokens_BL, padding_BL)
        step = Step(
            index=index,
            left=steps + passes - 1 - index,
            progress=min(1.0, (index + 1) / steps),
            page=page,
            logits=logits,
            count_B=count_B,
            draws=draws.at(index),
            text_draws=draws,
            mask=vocabulary.mask,
            probabilities=partial(_shaped, vocabulary, request, logits, may_end_N),
            confidence=partial(_confidence, vocabulary, plain, logits, may_end_N),
            symbols=vocabulary.size,
            given_BL=held_BL if decoding.forced else None,
            record=decoding.record,
        )
        page = revise(step, _unmasked(step, policy.select(step)))
        if decoding.trace:
            for row, canvas in enumerate(canvases):
                size = len(canvas.tokens_L)
                decoding.trace(row, page.tokens_BL[row, :size].tolist(), page.open_BL[row, :size].tolist())
    assert not bool(page.open_BL.any()), "a position was left open"
    return [page.tokens_BL[row, : len(canvas.tokens_L)].tolist() for row, canvas in enumerate(canvases)]


def predicted(network: nn.Module, tokens_BL: Tensor, padding_BL: Tensor | None = None, **inputs: Any) -> Logits:
    """One evaluation of a network; of a `TokenNetwork` the output layer is evaluated only where logits are needed."""
    if isinstance(network, TokenNetwork):
        hidden = network.hidden_states(SequenceInputs(tokens_BL=tokens_BL, real_BL=padding_BL, **inputs))
        hidden_NW = hidden.flatten(0, 1)
        return lambda where_N: network.head(hidden_NW[where_N])
    logits_NV: Tensor = network(tokens_BL, real_BL=padding_BL, **inputs).flatten(0, 1)
    return lambda where_N: logits_NV[where_N]


def _shaped(
    vocabulary: MaskedVocabulary, request: TextRequest, logits: Logits, may_end_N: Tensor, where_N: Tensor
) -> Tensor:
    return vocabulary.probabilities(request, logits(where_N), may_end_N[where_N])


def _confidence(
    vocabulary: MaskedVocabulary, plain: TextRequest, logits: Logits, may_end_N: Tensor, where_N: Tensor
) -> Tensor:
    return _shaped(vocabulary, plain, logits, may_end_N, where_N).amax(dim=-1)


def _start(
    canvases: Sequence[Canvas], vocabulary: MaskedVocabulary, device: torch.device
) -> tuple[MaskedPage, Tensor, Tensor]:
    """Canvases as one batch, padded on the right; bool [B, L], false at padding; the tokens that the canvases hold."""
    length = max(len(canvas.tokens_L) for canvas in canvases)
    tokens_BL = torch.full((len(canvases), length), vocabulary.end_of_text, dtype=torch.int64)
    open_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
    real_BL = torch.zeros_like(open_BL)
    held_BL = tokens_BL.clone()
    for row, canvas in enumerate(canvases):
        size = len(canvas.tokens_L)
        held_BL[row, :size] = canvas.tokens_L
        tokens_BL[row, :size] = canvas.tokens_L.masked_fill(~canvas.fixed_L, vocabulary.mask)
        open_BL[row, :size] = ~canvas.fixed_L
        real_BL[row, :size] = True
    open_BL = open_BL.to(device)
    return MaskedPage(tokens_BL.to(device), open_BL, open_BL), real_BL.to(device), held_BL.to(device)


def _unmasked(step: Step, now_BL: Tensor) -> MaskedPage:
    """The page with tokens drawn at these positions, or with those that are given."""
    page, length = step.page, now_BL.shape[1]
    u_N = step.draws.uniform(STREAM, length, dtype=torch.float64).flatten()

    def choose(where_N: Tensor) -> Tensor:
        probabilities_NV = step.probabilities(where_N)
        given_BL = step.given_BL
        tokens_N = draw(probabilities_NV, u_N[where_N]) if given_BL is None else given_BL.flatten()[where_N]
        if step.record:
            column_N = where_N % length
            step.record(
                Written.of(
                    probabilities_NV,
                    tokens_N=tokens_N,
                    rows_N=torch.div(where_N, length, rounding_mode="floor"),
                    places_N=column_N,
                    u_N=u_N[where_N],
                    index_N=column_N,
                    step=step.index,
                    draws=step.draws,
                )
            )
        return tokens_N

    drawn_N = step.at(now_BL, choose)
    return replace(page, tokens_BL=page.tokens_BL.masked_scatter(now_BL, drawn_N), open_BL=page.open_BL & ~now_BL)
