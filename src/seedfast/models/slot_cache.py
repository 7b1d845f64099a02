"""A key-value cache whose rows are at different positions, for texts that begin and end at different times.

Shapes: B rows, L new positions, C slots, H heads, P = 2 H (keys, then values), D head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast.models.attention_mask import PADDING
from seedfast.models.kv_cache import KVCache


@dataclass(kw_only=True)
class SlotCache(KVCache):
    """The cache of one evaluation in which row b gets its positions `next_B[b]`, `next_B[b]` + 1, …

    All C slots take part in attention, those behind a row's last position as padding: so the shapes of an evaluation,
    and the order of its additions, depend on no row's length.
    """

    @classmethod
    def of(cls, whole: KVCache, rows: slice, next_B: Tensor, count: int) -> "SlotCache":
        """The cache of some rows of a whole one, of which each gets `count` new tokens."""
        return cls(
            pairs_NBPCD=whole.pairs_NBPCD[:, rows],
            documents_BC=whole.documents_BC[rows],
            tokens_BC=None if whole.tokens_BC is None else whole.tokens_BC[rows],
            next_B=next_B,
            length=whole.room - count,  # every slot is in use after the new ones
        )

    def _places(self, length: int) -> Tensor:
        """The slots of the new positions, [B, L]."""
        return self.next_B[:, None] + torch.arange(length, device=self.next_B.device)

    def extend(self, layer: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; returns all of the layer's, [B, H, C, D]."""
        pairs_BPCD, heads = self.pairs_NBPCD[layer], k_BHLD.shape[1]
        new_BPLD = torch.cat([k_BHLD, v_BHLD], dim=1).to(pairs_BPCD.dtype)
        places_BPLD = self._places(new_BPLD.shape[2])[:, None, :, None].expand_as(new_BPLD)
        pairs_BPCD.scatter_(2, places_BPLD, new_BPLD)
        return pairs_BPCD[:, :heads], pairs_BPCD[:, heads:]

    def add_documents(self, documents_BL: Tensor | None, length: int) -> Tensor:
        """The documents of the new tokens: one for each row, and padding behind it."""
        assert documents_BL is None, "a row of slots is one document"
        self.has_documents = True
        is_real_BC = torch.arange(self.room, device=self.next_B.device) < self.next_B[:, None] + length
        self.documents_BC = torch.where(is_real_BC, 0, PADDING)
        return torch.zeros_like(self._places(length))

    def add_tokens(self, tokens_BL: Tensor, reach: int) -> tuple[Tensor, Tensor | None]:
        """Store the new tokens; returns them after `reach` earlier ones, of which those before the text are padding."""
        assert self.tokens_BC is not None, "this cache is of a network without n-grams"
        length = tokens_BL.shape[1]
        self.tokens_BC.scatter_(1, self._places(length), tokens_BL)
        recent_BR = self.next_B[:, None] + torch.arange(-reach, length, device=self.next_B.device)
        return self.tokens_BC.gather(1, recent_BR.clamp(min=0)), torch.where(recent_BR < 0, PADDING, 0)

    def next_positions(self, real_BL: Tensor | None, length: int) -> Tensor:
        """The positions of the new tokens, [B, L]: each is its slot."""
        assert real_BL is None, "a row of slots has no padding"
        return self._places(length)
