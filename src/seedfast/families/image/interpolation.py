"""Interpolation between seeds (their noise) and between classes (their embeddings)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.keys import Draws


def slerp(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of each example of [B, …] (Song et al. 2021, "DDIM", appendix D.5).

    sin((1-w) θ) / sin θ of the first and sin(w θ) / sin θ of the second, with the angle θ between them: unlike their
    mean, it has the norm that the sampler expects of noise. Weight 0 is the first and 1 the second, to the last bit.
    """
    flat_B2N = torch.stack([first, second], dim=1).flatten(2).double()
    a_BN, b_BN = flat_B2N.unbind(1)
    cos_B = (a_BN * b_BN).sum(dim=1) / (a_BN.norm(dim=1) * b_BN.norm(dim=1))
    angle_B = cos_B.clamp(-1, 1).arccos()
    shape = [-1, *[1] * (first.dim() - 1)]
    parts = [(each * angle_B).sin() / angle_B.sin() for each in (1 - weight, weight)]
    u, v = (part.to(first.dtype).view(shape) for part in parts)
    mixed: Tensor = u * first + v * second
    return mixed


@dataclass(frozen=True, kw_only=True)
class DrawsBetween(Draws):
    """Normal numbers between those of `seed` (weight 0) and those of the seed `to` (weight 1)."""

    to: int
    weight: float

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Interpolated spherically, float32 [B, *shape]."""
        other = replace(self, seed=self.to)
        return slerp(super().normal(stream, *shape), Draws.normal(other, stream, *shape), self.weight)


@contextmanager
def mixed_labels(embedding: nn.Embedding, to_K: Tensor, weight: float) -> Iterator[None]:
    """Within it, the embedding of a label k is (1-w) e_k + w e_to(k); weights 0 and 1 give either to the last bit.

    to_K: the label that each label goes to; a label that goes to itself keeps its embedding.
    """

    def mix(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        return torch.lerp(output, torch.nn.functional.embedding(to_K[inputs[0]], embedding.weight), weight)

    hook = embedding.register_forward_hook(mix)
    try:
        yield
    finally:
        hook.remove()
