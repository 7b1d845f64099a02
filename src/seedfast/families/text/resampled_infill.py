"""Infilling with an autoregressive model by sampling-importance-resampling (Rubin 1987).

Each gap's candidates are drawn from the text before it; one is chosen with probability proportional to the likelihood
that it gives to the text after it, up to the next gap. This draws exactly from the model as candidates grow.
"""

from dataclasses import replace

import torch

from seedfast.families.text.categorical import draw
from seedfast.families.text.causal_sampler import AutoregressiveRequest, Vocabulary, continue_prompts
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.request import Canvas


def fill_gaps(vocabulary: Vocabulary, decoding: Decoding[AutoregressiveRequest], canvas: Canvas, row: int) -> list[int]:
    """The tokens of one canvas, its gaps filled from left to right. `row`: its random stream."""
    tokens, fixed = canvas.tokens_L.tolist(), canvas.fixed_L.tolist()
    own = decoding.row(row)
    text: list[int] = []
    position, gap = 0, 0
    while position < len(tokens):
        if fixed[position]:
            text.append(tokens[position])
            position += 1
            continue
        end = _run_end(fixed, position)
        after = tokens[end : _run_end(fixed, end)]
        text += _fill_gap(vocabulary, own.at(gap), text, end - position, after)
        position, gap = end, gap + 1
        if decoding.trace:
            decoding.trace(row, text + tokens[end:], [False] * len(text) + [not known for known in fixed[end:]])
    return text


def _fill_gap(
    vocabulary: Vocabulary,
    decoding: Decoding[AutoregressiveRequest],
    before: list[int],
    count: int,
    after: list[int],
) -> list[int]:
    """`count` tokens between `before` and `after`."""
    draws, candidates = decoding.draws, decoding.request.candidates
    streams = replace(
        draws,
        scope=f"{draws.scope}/candidates/{int(draws.positions_B)}",
        positions_B=torch.arange(candidates, device=decoding.device),
    )
    fillings = continue_prompts(
        vocabulary,
        replace(decoding, draws=streams, trace=None, record=None),  # only one of the candidates is written
        [before] * candidates,
        [count] * candidates,
        may_end=False,
    )
    if not after:
        return fillings[0]
    start = vocabulary.begin(before)
    rows_BL = torch.tensor([start + filling + after for filling in fillings], device=decoding.device)
    decoding.evaluations.count += 1
    log_q_BLV = decoding.network(rows_BL[:, :-1]).double().log_softmax(dim=-1)
    log_q_BL = log_q_BLV.gather(2, rows_BL[:, 1:].unsqueeze(2)).squeeze(2)
    weight_B = log_q_BL[:, -len(after) :].sum(dim=1).softmax(dim=0)
    return fillings[int(draw(weight_B, draws.uniform("choice", 1, dtype=torch.float64)[0, 0]))]


def _run_end(fixed: list[bool], start: int) -> int:
    """Where the run of equal values that begins at `start` ends."""
    end = start
    while end < len(fixed) and fixed[end] == fixed[start]:
        end += 1
    return end
