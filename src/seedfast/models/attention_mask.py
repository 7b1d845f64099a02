"""Attention masks: causal, document, padding and block masks as one value, built once in each forward pass.

Shapes: B batch, L queries, C keys (cached and new), M memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = -1
"""Document id of padding. Padding attends to padding: a row of attention without any key would be NaN."""


@dataclass(frozen=True)
class AttentionMask:
    """The keys that each query may attend to, as `F.scaled_dot_product_attention` takes them.

    allowed: bool, broadcastable to [B, heads, L, C], true where the query may attend to the key; None: everywhere.
    is_causal: apply the kernel's own causal mask, which is faster than the same mask as a tensor. Never both.
    """

    allowed: Tensor | None = None
    is_causal: bool = False

    @classmethod
    def of_documents(
        cls,
        documents_BL: Tensor | None,
        *,
        length: int,
        causal: bool,
        device: torch.device,
        cached_BC: Tensor | None = None,
        cached: int = 0,
    ) -> "AttentionMask":
        """Attention within documents, and causal attention if `causal`.

        documents_BL: the document of each query; None if all positions belong to one.
        cached: keys in front of the queries, from a key-value cache. cached_BC: the document of every key, cached
            and new, [B, cached + L]; None without a cache.
        """
        if documents_BL is None and not (cached and length > 1 and causal):
            return cls(is_causal=causal and length > 1)
        allowed = torch.ones(1, 1, length, cached + length, dtype=torch.bool, device=device)
        if causal:
            allowed = allowed.tril(cached)
        if documents_BL is not None:
            keys_BC = documents_BL if cached_BC is None else cached_BC
            allowed = allowed & (documents_BL[:, None, :, None] == keys_BC[:, None, None, :])
        return cls(allowed)

    @classmethod
    def of_blocks(cls, length: int, block: int, documents_BL: Tensor | None, device: torch.device) -> "AttentionMask":
        """The mask of block diffusion over 2 L positions: L clean tokens, then the same positions' noisy ones.

        A clean token attends to the clean tokens of its own block and of earlier ones; a noisy token to the clean
        tokens of earlier blocks and the noisy ones of its own (Arriola et al. 2025, "Block Diffusion", section 3.2 and
        figure 2).
        """
        key_L = torch.arange(length, device=device) // block
        query_L1 = key_L[:, None]
        nothing = torch.zeros(length, length, dtype=torch.bool, device=device)
        clean = torch.cat([key_L <= query_L1, nothing], dim=1)
        noisy = torch.cat([key_L < query_L1, key_L == query_L1], dim=1)
        allowed = torch.cat([clean, noisy])[None, None]
        if documents_BL is not None:
            twice_BL = documents_BL.repeat(1, 2)
            allowed = allowed & (twice_BL[:, None, :, None] == twice_BL[:, None, None, :])
        return cls(allowed)

    @classmethod
    def of_memory(cls, real_BM: Tensor | None) -> "AttentionMask":
        """The mask of cross-attention to a memory, which is padded where `real_BM` is false."""
        return cls(None if real_BM is None else real_BM[:, None, None, :])

    def additive(self) -> Tensor:
        """The mask as a float32 tensor that is added to the logits: 0 where allowed, the lowest number elsewhere."""
        assert self.allowed is not None, "only a mask that is a tensor can be added"
        zeros = torch.zeros(self.allowed.shape, device=self.allowed.device)
        return zeros.masked_fill(~self.allowed, torch.finfo(torch.float32).min)


NO_MASK = AttentionMask()
"""Every query attends to every key."""


def with_padding(documents_BL: Tensor | None, real_BL: Tensor | None) -> Tensor | None:
    """Document ids with padding as a document of its own; None if there are neither documents nor padding."""
    if real_BL is None:
        return documents_BL
    return torch.where(real_BL, 0 if documents_BL is None else documents_BL, PADDING)
