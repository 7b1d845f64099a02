"""Changes to a predicted x0 before a sampler uses it: classifier-free guidance, clamping, dynamic thresholding."""

import torch
from torch import Tensor


def guided(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + w (c - u) (Ho & Salimans 2022).

    w = 0 is the unconditional prediction, w = 1 the conditional one; a larger w moves farther towards the condition.
    The result is the same for predictions of ε, v and x0, because at one x these are affine in each other.
    """
    return unconditional + scale * (conditional - unconditional)


def clamped(x0: Tensor) -> Tensor:
    """x0 with every value in [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamically_thresholded(x0: Tensor, percentile: float) -> Tensor:
    """x0 clipped to ±s and divided by s, where s = max(1, the percentile of |x0|), for each example of [B, …].

    It replaces the clamp and never follows it (Saharia et al. 2022, section 2.3). The percentile interpolates linearly
    between order statistics. It is computed from the largest values alone, because torch.quantile accepts at most 2^24
    values.
    """
    size_BN = x0.flatten(1).abs()
    rank = percentile * (size_BN.shape[1] - 1)
    below = int(rank)
    largest_BK = size_BN.topk(size_BN.shape[1] - below, dim=1).values
    low_B, high_B = largest_BK[:, -1], largest_BK[:, max(0, largest_BK.shape[1] - 2)]
    s_B = torch.lerp(low_B, high_B, rank - below).clamp(min=1)
    s = s_B.view(-1, *[1] * (x0.dim() - 1))
    return torch.minimum(torch.maximum(x0, -s), s) / s
