"""Beam search, batched, for any causal network: the likeliest continuations, found by keeping the best few prefixes.

Properties on enumerable trees: docs/identities.md#beam. Shapes: B problems (images, prompts), K beams of each, N rows
of the network's batch, L tokens generated so far, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

NextLogits = Callable[[Tensor, Tensor], Tensor]
"""(rows_N, tokens_N) → logits [N, V] of the next token: the new row n is the old row rows_N[n] plus tokens_N[n].

Before the first call there is one empty row for each problem, with its conditioning.
"""


class Hypothesis(NamedTuple):
    """A continuation. tokens: without the end. log_probability: in nats, including the end if it is `finished`.

    score: log_probability / length_penalty, which ranks the hypotheses.
    """

    tokens: list[int]
    log_probability: float
    score: float
    finished: bool


def length_penalty(length: Any, alpha: float) -> Any:
    """((5 + length) / 6)^α (Wu et al. 2016, "Google's Neural Machine Translation System", equation 14).

    α = 0 ranks by probability alone, which favours short texts.
    """
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    next_logits: NextLogits,
    *,
    start_B: Tensor,
    end: int,
    beams: int,
    length: int,
    alpha: float = 0.0,
    count: int | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of each problem, of at most `length` tokens including the end, best first.

    start_B: the first token of each. count: hypotheses to return (default: one for each beam). A beam that has ended
    keeps its score and its place until better beams replace it. A problem is finished when all its beams have ended, or
    when no open beam can overtake the best `count`. One beam is greedy decoding. Problems do not affect each other.
    """
    open_B = torch.arange(len(start_B), device=start_B.device)  # those that are not finished
    rows_N, tokens_N = open_B, start_B
    beam = _Beam.empty(len(start_B), beams, start_B.device)
    found: list[list[Hypothesis]] = [[] for _ in start_B]
    for step in range(length):
        log_q_NV = next_logits(rows_N, tokens_N).double().log_softmax(dim=-1)
        width = len(rows_N) // len(open_B)  # rows of each problem: one at first, then one for each beam
        beam, parent_BK = beam.extended(log_q_NV.view(len(open_B), width, -1), end=end, alpha=alpha)
        finished_B = beam.settled(count or beams, length=length, alpha=alpha) | (step + 1 == length)
        for index in finished_B.nonzero()[:, 0].tolist():
            found[int(open_B[index])] = beam.ranked(index, end=end, alpha=alpha)[:count]
        kept_B = (~finished_B).nonzero()[:, 0]
        if not len(kept_B):
            break
        rows_N = (kept_B.unsqueeze(1) * width + parent_BK[kept_B].clamp(max=width - 1)).flatten()
        open_B, beam = open_B[kept_B], beam.select(kept_B)
        tokens_N = beam.tokens_BKL[..., -1].flatten()
    return found


@dataclass(frozen=True)
class _Beam:
    """The best prefixes of each problem: log-probability, length, whether they have ended, tokens."""

    log_p_BK: Tensor
    lengths_BK: Tensor
    done_BK: Tensor
    tokens_BKL: Tensor

    @staticmethod
    def empty(problems: int, beams: int, device: torch.device) -> "_Beam":
        """The beam before the first token: one prefix, and the other places empty."""
        log_p_BK = torch.full((problems, beams), -torch.inf, dtype=torch.float64, device=device)
        log_p_BK[:, 0] = 0.0
        lengths_BK = torch.zeros(problems, beams, dtype=torch.int64, device=device)
        return _Beam(log_p_BK, lengths_BK, lengths_BK > 0, lengths_BK.new_zeros(problems, beams, 0))

    def select(self, rows_B: Tensor) -> Self:
        """The prefixes of these problems."""
        return type(self)(*(part[rows_B] for part in vars(self).values()))

    def extended(self, log_q_BKV: Tensor, *, end: int, alpha: float) -> tuple["_Beam", Tensor]:
        """The best prefixes with one token more, and the index of the prefix that each continues, [B, K].

        log_q_BKV: log-probabilities of the next token; at first of one prefix for all places, [B, 1, V].
        """
        candidates_BKV = self.log_p_BK.unsqueeze(-1) + log_q_BKV
        frozen_BKV = torch.full_like(candidates_BKV, -torch.inf)
        frozen_BKV[..., end] = self.log_p_BK
        candidates_BKV = torch.where(self.done_BK.unsqueeze(-1), frozen_BKV, candidates_BKV)
        lengths_BK = self.lengths_BK + ~self.done_BK
        scores_BKV = candidates_BKV / length_penalty(lengths_BK, alpha).unsqueeze(-1)
        best_BK = scores_BKV.flatten(1).topk(self.log_p_BK.shape[1], dim=1).indices
        parent_BK, token_BK = best_BK // log_q_BKV.shape[-1], best_BK % log_q_BKV.shape[-1]
        log_p_BK = candidates_BKV.flatten(1).gather(1, best_BK)
        # There may be fewer prefixes than beams; an empty place counts as ended.
        done_BK = self.done_BK.gather(1, parent_BK) | (token_BK == end) | log_p_BK.isinf()
        before_BKL = self.tokens_BKL.gather(1, parent_BK.unsqueeze(-1).expand(-1, -1, self.tokens_BKL.shape[-1]))
        tokens_BKL = torch.cat([before_BKL, token_BK.unsqueeze(-1)], dim=-1)
        return _Beam(log_p_BK, lengths_BK.gather(1, parent_BK), done_BK, tokens_BKL), parent_BK

    def settled(self, count: int, *, length: int, alpha: float) -> Tensor:
        """Whether the best `count` of each problem are known, bool [B]: no open prefix can overtake them any more.

        A further token only lowers a log-probability, and the length penalty divides most at the full length.
        """
        scores_BK = self.log_p_BK / length_penalty(self.lengths_BK, alpha)
        best_case_BK = (self.log_p_BK / length_penalty(length, alpha)).masked_fill(self.done_BK, -torch.inf)
        safe_BK = self.done_BK & (scores_BK >= best_case_BK.amax(dim=1, keepdim=True))
        settled_B: Tensor = self.done_BK.all(dim=1) | (safe_BK.sum(dim=1) >= count)
        return settled_B

    def ranked(self, index: int, *, end: int, alpha: float) -> list[Hypothesis]:
        """The hypotheses of one problem, best first."""
        hypotheses = []
        parts = (self.log_p_BK[index], self.lengths_BK[index], self.tokens_BKL[index])
        for log_p, length, tokens in zip(*(part.tolist() for part in parts), strict=True):
            if log_p == -torch.inf:
                continue
            finished = tokens[length - 1] == end
            score = log_p / length_penalty(length, alpha)
            hypotheses.append(Hypothesis(tokens[: length - finished], log_p, score, finished))
        return sorted(hypotheses, key=lambda each: -each.score)
