"""The sampler of masked diffusion: unmask open positions in parallel steps, in any order.

The choice of positions never depends on the tokens that are about to be drawn, so the product of the probabilities of
all tokens is that of the text (docs/identities.md#deployed-likelihood), and one position a step follows the chain rule
and draws exactly from the model (docs/identities.md#sampler-exactness).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from seedfast.console import track
from seedfast.families.text.categorical import draw
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.request import Canvas, TextRequest
from seedfast.families.text.unmask_policy import Policy
from seedfast.families.text.unmask_step import Logits, MaskedPage, MaskedVocabulary, Step
from seedfast.families.text.written import STREAM, Written
from seedfast.models.token_network import SequenceInputs, TokenNetwork


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
    is_infill_B = (page.open_BL[:, :-1] & ~page.open_BL[:, 1:] & real_BL[:, 1:]).any(dim=1)
    may_end_B = torch.ones_like(is_infill_B) if decoding.forced else ~is_infill_B
    may_end_N = may_end_B.repeat_interleave(page.tokens_BL.shape[1])
    steps_B = [request.step_count or count for count in count_B.tolist()]  # a text's own, whatever its neighbours have
    steps = max(steps_B)
    plain = replace(request, temperature=1.0, top_k=None, top_p=None)
    for index in track("Sampling", range(steps + passes), steps + passes):
        logits = predict(page.tokens_BL, padding_BL)
        step = Step(
            index=index,
            left=steps + passes - 1 - index,
            progress=[min(1.0, (index + 1) / own) if own else 1.0 for own in steps_B],
            page=page,
            logits=logits,
            count_B=count_B,
            draws=draws.at(index),
            text_draws=draws,
            mask=vocabulary.mask,
            probabilities=partial(_shaped, vocabulary, request, logits, may_end_N),
            confidence=partial(_confidence, vocabulary, plain, logits, may_end_N),
            symbols=vocabulary.size,
            given=partial(_forced, decoding, held_BL) if decoding.forced else None,
            record=decoding.record,
        )
        page = revise(step, _unmasked(step, policy.select(step)))
        decoding.evaluations.count += 1
        if decoding.trace:
            for row, canvas in enumerate(canvases):
                size = len(canvas.tokens_L)
                decoding.trace(row, page.tokens_BL[row, :size].tolist(), page.open_BL[row, :size].tolist())
    assert not bool(page.open_BL.any()), "a position was left open"
    return [tokens[: len(canvas.tokens_L)] for tokens, canvas in zip(page.tokens_BL.tolist(), canvases, strict=True)]


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


def _forced(decoding: Decoding[Any], held_BL: Tensor, probabilities_NV: Tensor, where_N: Tensor) -> Tensor:
    return decoding.forced_tokens(probabilities_NV, held_BL.flatten()[where_N])


def _start(
    canvases: Sequence[Canvas], vocabulary: MaskedVocabulary, device: torch.device
) -> tuple[MaskedPage, Tensor, Tensor]:
    """Canvases as one batch, padded on the right; bool [B, L], false at padding; the tokens that the canvases hold."""
    held_BL = pad_sequence([canvas.tokens_L for canvas in canvases], True, vocabulary.end_of_text).to(device)
    open_BL = ~pad_sequence([canvas.fixed_L for canvas in canvases], True, True).to(device)
    size_B = torch.tensor([len(canvas.tokens_L) for canvas in canvases], device=device)
    real_BL = torch.arange(held_BL.shape[1], device=device) < size_B.unsqueeze(1)
    return MaskedPage(held_BL.masked_fill(open_BL, vocabulary.mask), open_BL, open_BL), real_BL, held_BL


def _unmasked(step: Step, now_BL: Tensor) -> MaskedPage:
    """The page with tokens drawn at these positions, or with those that are given."""
    page, length = step.page, now_BL.shape[1]
    u_N = step.draws.uniform(STREAM, length, dtype=torch.float64).flatten()

    def choose(where_N: Tensor) -> Tensor:
        probabilities_NV = step.probabilities(where_N)
        tokens_N = step.given(probabilities_NV, where_N) if step.given else draw(probabilities_NV, u_N[where_N])
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
