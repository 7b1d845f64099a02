"""The training example of embedding diffusion: which tokens are noised, and which condition them.

Shapes: B examples, L window, P prompt, N = P + L, D channels of an embedding, S self-conditioned examples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast.families.family import Task
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask(Task):
    """Windows of text of which some or all embeddings are noised.

    targets_BL: token ids of the windows.
    noised_BL: true where embeddings are noised and the loss counts.
    condition_BN: token ids of prompt and window as the network reads them: clean tokens, `noised_id` where the
        embedding is noised, and `null_id` at padding and where a condition is dropped or does not exist.
    noise_BLD: ε, float32.
    time_B: t in [0, 1), float64.
    size_B: tokens in each window, without padding.
    real_BN: false at padding; None where no window of the batch is padded: attention without a mask is faster.
    self_conditioned_S: rows in which the estimate builds on a first estimate, int64; None where there are none.
    """

    targets_BL: Tensor
    noised_BL: Tensor
    condition_BN: Tensor
    noise_BLD: Tensor
    time_B: Tensor
    size_B: Tensor
    real_BN: Tensor | None
    self_conditioned_S: Tensor | None


@dataclass(frozen=True, kw_only=True)
class ConditioningRates:
    """Probabilities of the ways in which an example is conditioned; each example draws for itself.

    clean_context: only one span of the window is noised, between clean tokens.
    dropout: the prompt and the clean tokens are replaced by the null condition.
    self_conditioning: the estimate builds on a first estimate.
    """

    clean_context: float
    dropout: float
    self_conditioning: float


def noised_spans(scored_BL: Tensor, size_B: Tensor, probability: float, draws: Draws) -> Tensor:
    """Which positions are noised, bool [B, L]: in some windows one random span, in the others every scored position.

    Half of the spans end with their text (continuations), the others at a random position (gaps).
    """
    u_B4 = draws.uniform("context", 4, dtype=torch.float64)
    cuts_B2 = (u_B4[:, :2] * size_B.unsqueeze(1)).long().sort(dim=1).values
    stop_B = torch.where(u_B4[:, 2] < 0.5, size_B, cuts_B2[:, 1] + 1)
    position_L = torch.arange(scored_BL.shape[1])
    span_BL = (position_L >= cuts_B2[:, :1]) & (position_L < stop_B.unsqueeze(1)) & scored_BL
    chosen_B = (u_B4[:, 3] < probability) & span_BL.any(dim=1)
    return torch.where(chosen_B.unsqueeze(1), span_BL, scored_BL)
