"""Networks over tokens: inputs, hidden states, logits, and cross-entropy without a tensor of all logits.

Shapes: B batch, L positions, M memory, N selected positions, V vocabulary, W width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from seedfast.models.network import CompiledInTraining, Network

LARGEST = {"cpu": 1 << 24, "cuda": 1 << 30}
"""Largest number of logits in memory at once, by the type of the device; a fixed number, so that no bit depends on the
memory that is free. In float32 64 MiB and 4 GiB; a loss holds about three such tensors, two of them in its gradient."""


class OutputLayer(Protocol):
    """A layer from hidden states to logits, such as `nn.Linear`."""

    out_features: int

    def __call__(self, x: Tensor, /) -> Tensor:
        """[..., W] to [..., V]."""
        ...


class Cache(Protocol):
    """The state that a network keeps of the positions before the next ones."""

    def select(self, rows_B: Tensor, /) -> None:
        """Keep these rows in this order; a row may be repeated."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)


@dataclass(frozen=True, kw_only=True)
class SequenceInputs(Generic[CacheT]):
    """The inputs of one forward pass. Tokens or embeddings are required, everything else is optional.

    tokens_BL: token ids. embeddings_BLD: vectors of the network's width instead of tokens.
    where_N: indices into the flattened B · L positions: only these are computed; None: all.
    clean_BL: the same positions' tokens without noise, for a block network without a cache.
    time_B: in [0, 1], for a network built with a time.
    memory_BMD: what cross-attention attends to; memory_mask_BM: false at its padding (each row needs one true entry).
        With a cache, later calls may omit both.
    documents_BL: document ids ≥ 0: attention stays within a document.
    positions_BL: the position of each token (default: counted from the start of the sequence without padding). With a
        cache: in every call or in none.
    real_BL: false at padding. With a cache, pad on the left.
    cache: holds the positions before these ones, and stores these ones.
    """

    tokens_BL: Tensor | None = None
    embeddings_BLD: Tensor | None = None
    where_N: Tensor | None = None
    clean_BL: Tensor | None = None
    time_B: Tensor | None = None
    memory_BMD: Tensor | None = None
    memory_mask_BM: Tensor | None = None
    documents_BL: Tensor | None = None
    positions_BL: Tensor | None = None
    real_BL: Tensor | None = None
    cache: CacheT | None = None


class Scores(NamedTuple):
    """The scores of target tokens.

    nats_N: -log q(target), float32. hits_N: whether the target was the likeliest token; None if not requested.
    """

    nats_N: Tensor
    hits_N: Tensor | None


class CrossEntropy(CompiledInTraining):
    """The cross-entropy of some rows, whose logits are all in memory."""

    def forward(
        self, head: OutputLayer, rows_NW: Tensor, targets_N: Tensor, *, outputs: int | None, hits: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The fields of `Scores`; the arguments are those of `score`."""
        logits_NV = head(rows_NW)[..., :outputs].float()
        nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        return nats_N, logits_NV.argmax(dim=-1) == targets_N if hits else None


def score(
    head: OutputLayer,
    hidden_NW: Tensor,
    targets_N: Tensor,
    *,
    outputs: int | None = None,
    hits: bool = False,
    chunk: int | None = None,
    cross_entropy: CrossEntropy | None = None,
) -> Scores:
    """Cross-entropy of the output layer's distributions: exact to rounding, and bit for bit if one chunk suffices.

    outputs: only the first `outputs` logits are tokens; the others have probability zero.
    chunk: the largest number of logits in memory (default `LARGEST`). With V logits for each of N rows, a plain
        cross-entropy holds several tensors of N · V; here no tensor has more than `chunk` (or one row), forward or
        backward.
    cross_entropy: computes each chunk; it may be compiled.
    """
    part = partial(cross_entropy or CrossEntropy(), head, outputs=outputs, hits=hits)
    rows = max(1, (chunk or LARGEST.get(hidden_NW.device.type, LARGEST["cpu"])) // head.out_features)
    if len(hidden_NW) <= rows:
        return Scores(*part(hidden_NW, targets_N))
    # Recomputing a chunk's logits costs one product more; storing them is what this function avoids.
    parts = [
        checkpoint(part, *pair, use_reentrant=False)
        for pair in zip(torch.split(hidden_NW, rows), torch.split(targets_N, rows), strict=True)
    ]
    nats, found = zip(*parts, strict=True)
    return Scores(torch.cat(nats), torch.cat(found) if hits else None)


class TokenNetwork(Network, ABC, Generic[CacheT]):
    """A network from tokens to a distribution over tokens: hidden states of each position, then the output layer.

    Callers use `forward` alone, so that a wrapper such as DistributedDataParallel takes part in every pass.
    """

    head: OutputLayer

    def __init__(self) -> None:
        super().__init__()
        self.cross_entropy = CrossEntropy()  # without tensors of its own
        self.logits_at_once: int | None = None
        """Largest number of logits that a loss holds in memory; None for `LARGEST`."""

    @property
    def has_cache(self) -> bool:
        """Whether it can keep the state of earlier positions; otherwise all are computed again for each new one."""
        return True

    @abstractmethod
    def hidden_states(self, inputs: SequenceInputs[CacheT]) -> Tensor:
        """The input of the output layer, [B, L, W]; with `where_N` only at those positions, [N, W]."""

    @abstractmethod
    def cache(self, batch: int, length: int | None = None) -> CacheT:
        """An empty cache for `length` positions (default: the context).

        Raises UserError for a network that cannot use one.
        """

    def reader(self) -> Callable[[Tensor, CacheT], Tensor]:
        """(the next tokens of each row [B, L], the cache of those before) → the logits after the last of them, [B, V].

        Several tokens are read into an empty cache. For generation: the weights must not change while the function is
        in use.
        """

        def read(tokens_BL: Tensor, cache: CacheT) -> Tensor:
            size, length = tokens_BL.shape
            last_B = torch.arange(length - 1, size * length, length, device=tokens_BL.device)
            logits_BV: Tensor = self(tokens_BL, cache=cache, where_N=last_B)
            return logits_BV

        return read

    def forward(
        self,
        tokens_BL: Tensor | None = None,
        *,
        targets_N: Tensor | None = None,
        outputs: int | None = None,
        **inputs: Any,
    ) -> Tensor | Scores:
        """Logits, [B, L, V]; with `where_N` only at those positions, [N, V].

        inputs: the other fields of `SequenceInputs`.
        targets_N: target tokens of the computed positions: returns their `Scores` and never holds all logits.
        outputs: the number of logits that are tokens (default: all).
        """
        x = self.hidden_states(SequenceInputs(tokens_BL=tokens_BL, **inputs))
        if targets_N is None:
            return self.head(x)[..., :outputs]
        return score(
            self.head,
            x.flatten(0, -2),
            targets_N,
            outputs=outputs,
            hits=not self.training,
            chunk=self.logits_at_once,
            cross_entropy=self.cross_entropy,
        )
