"""From features to nats: what every network over tokens has in common, without ever holding all logits at once.

Shapes: B batch, L positions, N scored positions, V vocabulary, W width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1 << 24
"""Logits that are held at once. More than so many are computed in chunks of rows, and again in the backward pass."""


class Scores(NamedTuple):
    """How well tokens were predicted.

    nats_N: -log q of each target, float32. hits_N: whether it was the likeliest; None where nobody asked.
    """

    nats_N: Tensor
    hits_N: Tensor | None


def score(
    head: nn.Module,
    features_NW: Tensor,
    targets_N: Tensor,
    *,
    outputs: int | None = None,
    hits: bool = False,
    chunk: int = CHUNK,
) -> Scores:
    """Cross-entropy of the output layer's distributions: exact to rounding, and bit for bit where one chunk suffices.

    outputs: only so many of the head's outputs are tokens; the others have probability zero.
    chunk: the largest number of logits in memory. With V logits for each of N rows, a plain cross-entropy holds
        several tensors of N · V; here no tensor has more than `chunk` (or one row), forward or backward.
    """

    def part(rows_NW: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor | None]:
        logits_NV = head(rows_NW)[..., :outputs].float()
        nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        return nats_N, logits_NV.argmax(dim=-1) == targets_N if hits else None

    rows = max(1, chunk // int(getattr(head, "out_features", features_NW.shape[-1])))
    if len(features_NW) <= rows:
        return Scores(*part(features_NW, targets_N))
    # Recomputing a chunk's logits costs one product more; keeping them is what this function is there to avoid.
    parts = [
        checkpoint(part, *pair, use_reentrant=False)
        for pair in zip(torch.split(features_NW, rows), torch.split(targets_N, rows), strict=True)
    ]
    nats, found = zip(*parts, strict=True)
    return Scores(torch.cat(nats), torch.cat(found) if hits else None)


class TokenNetwork(nn.Module):
    """A network from tokens to a distribution over tokens: `features` of each position, then the output layer `head`.

    Whatever is asked of it is asked through `forward`, so that a wrapper (DistributedDataParallel) sees every pass.
    """

    head: nn.Module

    def features(self, tokens_BL: Tensor | None = None, *, where_N: Tensor | None = None, **inputs: Any) -> Tensor:
        """What the output layer sees, [B, L, W]; only at `where_N` among the flattened positions, [N, W]."""
        raise NotImplementedError

    def forward(
        self,
        tokens_BL: Tensor | None = None,
        *,
        where_N: Tensor | None = None,
        targets_N: Tensor | None = None,
        outputs: int | None = None,
        **inputs: Any,
    ) -> Tensor | Scores:
        """Logits, [B, L, V]; with `where_N`, indices into the flattened B · L positions, only there, [N, V].

        targets_N: the right tokens of those positions: then their `Scores` are returned instead, and logits are never
            held all at once. outputs: how many of the logits are tokens (default all).
        """
        x = self.features(tokens_BL, where_N=where_N, **inputs)
        if targets_N is None:
            logits: Tensor = self.head(x)[..., :outputs]
            return logits
        return score(self.head, x.flatten(0, -2), targets_N, outputs=outputs, hits=not self.training)
