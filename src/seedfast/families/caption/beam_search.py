"""Beam search: the likeliest continuations, found by keeping the best few prefixes. Batched, for any causal network.

Shapes: B problems (images, prompts), K beams of each, N rows that the network holds, L tokens written, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

Advance = Callable[[Tensor, Tensor], Tensor]
"""(rows_N, tokens_N) → logits [N, V]: row n becomes what row rows_N[n] was, continued by tokens_N[n].

Before the first call there is one row for each problem, which holds whatever the texts are about.
"""


class Hypothesis(NamedTuple):
    """A continuation. tokens: without the end. log_probability: in nats, of the end too if it `finished`.

    score: what it is ranked by, log_probability / length_penalty.
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
    advance: Advance,
    *,
    start_B: Tensor,
    end: int,
    beams: int,
    length: int,
    alpha: float = 0.0,
    wanted: int | None = None,
) -> list[list[Hypothesis]]:
    """For each problem its best continuations of at most `length` tokens, the end included, best first.

    start_B: the token that each begins with. A beam that has ended keeps its score and its place until better ones take
    it; a problem whose beams have all ended is over. One beam is greedy decoding. Problems do not change each other.
    wanted: so many hypotheses (default: one for each beam); a problem is over as soon as none can overtake them.
    """
    problems_B = torch.arange(len(start_B), device=start_B.device)  # those that are not over
    rows_N, tokens_N = problems_B, start_B
    beam = _Beam.empty(len(start_B), beams, start_B.device)
    found: list[list[Hypothesis]] = [[] for _ in start_B]
    for step in range(length):
        log_q_NV = advance(rows_N, tokens_N).double().log_softmax(dim=-1)
        width = len(rows_N) // len(problems_B)  # the rows of each problem: one at first, then one for each beam
        beam, parent_BK = beam.extended(log_q_NV.view(len(problems_B), width, -1), end=end, alpha=alpha)
        over_B = beam.settled(wanted or beams, length=length, alpha=alpha) | (step + 1 == length)
        for index in over_B.nonzero()[:, 0].tolist():
            found[int(problems_B[index])] = beam.ranked(index, end=end, alpha=alpha)[:wanted]
        going_B = (~over_B).nonzero()[:, 0]
        if not len(going_B):
            break
        rows_N = (going_B.unsqueeze(1) * width + parent_BK[going_B].clamp(max=width - 1)).flatten()
        problems_B, beam = problems_B[going_B], beam.of(going_B)
        tokens_N = beam.written_BKL[..., -1].flatten()
    return found


@dataclass(frozen=True)
class _Beam:
    """The best prefixes of each problem: their log-probability, length, whether they have ended, their tokens."""

    log_p_BK: Tensor
    lengths_BK: Tensor
    done_BK: Tensor
    written_BKL: Tensor

    @staticmethod
    def empty(problems: int, beams: int, device: torch.device) -> "_Beam":
        """Before the first token there is one prefix, however many beams there will be."""
        log_p_BK = torch.full((problems, beams), -torch.inf, dtype=torch.float64, device=device)
        log_p_BK[:, 0] = 0.0
        lengths_BK = torch.zeros(problems, beams, dtype=torch.int64, device=device)
        return _Beam(log_p_BK, lengths_BK, lengths_BK > 0, lengths_BK.new_zeros(problems, beams, 0))

    def of(self, rows_B: Tensor) -> Self:
        """The prefixes of these problems."""
        return type(self)(*(part[rows_B] for part in vars(self).values()))

    def extended(self, log_q_BKV: Tensor, *, end: int, alpha: float) -> tuple["_Beam", Tensor]:
        """The best prefixes that are one token longer, and which prefix each of them continues, [B, K].

        log_q_BKV: of the next token; of one prefix for all, [B, 1, V].
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
        # There may be fewer prefixes than beams; a place that holds none waits for nothing.
        done_BK = self.done_BK.gather(1, parent_BK) | (token_BK == end) | log_p_BK.isinf()
        before_BKL = self.written_BKL.gather(1, parent_BK.unsqueeze(-1).expand(-1, -1, self.written_BKL.shape[-1]))
        written_BKL = torch.cat([before_BKL, token_BK.unsqueeze(-1)], dim=-1)
        return _Beam(log_p_BK, lengths_BK.gather(1, parent_BK), done_BK, written_BKL), parent_BK

    def settled(self, wanted: int, *, length: int, alpha: float) -> Tensor:
        """Whether the best of each problem are known, bool [B]: what is open cannot overtake so many that have ended.

        Tokens only lower a log-probability, and the penalty for a text's length is largest for the longest.
        """
        scores_BK = self.log_p_BK / length_penalty(self.lengths_BK, alpha)
        reach_BK = (self.log_p_BK / length_penalty(length, alpha)).masked_fill(self.done_BK, -torch.inf)
        ahead_BK = self.done_BK & (scores_BK >= reach_BK.amax(dim=1, keepdim=True))
        settled_B: Tensor = self.done_BK.all(dim=1) | (ahead_BK.sum(dim=1) >= wanted)
        return settled_B

    def ranked(self, index: int, *, end: int, alpha: float) -> list[Hypothesis]:
        """The hypotheses of one problem, best first."""
        hypotheses = []
        parts = (self.log_p_BK[index], self.lengths_BK[index], self.written_BKL[index])
        for log_p, length, written in zip(*(part.tolist() for part in parts), strict=True):
            if log_p == -torch.inf:
                continue
            finished = written[length - 1] == end
            score = log_p / length_penalty(length, alpha)
            hypotheses.append(Hypothesis(written[: length - finished], log_p, score, finished))
        return sorted(hypotheses, key=lambda each: -each.score)
