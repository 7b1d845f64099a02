"""The key-value cache of a transformer.

Shapes: B batch, L new positions, C slots, M memory, N layers, H heads, P = 2 H, D head size.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True)
class KVCache:
    """Keys and values of all previous positions, so that each new token costs one position.

    All rows use the same number of slots; prompts of different lengths are padded on the left.
    """

    pairs_NBPCD: Tensor
    """Each layer's keys of all heads, after the rotary embedding, and then its values of all heads. Allocated once for
    the longest sequence, and together, so that both of a new token are copied at once."""
    documents_BC: Tensor
    """Document id of each slot; `PADDING` for padding."""
    next_B: Tensor
    """Position of each row's next token, without padding."""
    length: int = 0
    """Number of slots in use."""
    has_documents: bool = False
    """Whether documents or padding were ever given: otherwise no mask is needed."""
    memory: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values of the cross-attention memory by layer, computed when the memory was last given."""
    memory_mask_BM: Tensor | None = None
    tokens_BC: Tensor | None = None
    """The token in each slot, for a network that embeds n-grams."""
    memory_row_B: Tensor | None = None
    """The row of the given memory that each row attends to; None: row i attends to row i."""

    layers: list[tuple[Tensor, Tensor, Tensor]] = field(init=False)
    """Views of each layer, for use without gradients: keys and values [B, P, C, D], keys [B, H, C, D], values."""

    def __post_init__(self) -> None:
        half = self.pairs_NBPCD.shape[2] // 2
        self.layers = [(pairs, pairs[:, :half], pairs[:, half:]) for pairs in self.pairs_NBPCD]

    @property
    def room(self) -> int:
        """Number of slots."""
        return self.pairs_NBPCD.shape[3]

    def extend(self, layer: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values; returns all of the layer's, [B, H, C, D]."""
        heads, end = k_BHLD.shape[1], self.length + k_BHLD.shape[2]
        pairs_BPCD = self.pairs_NBPCD[layer, :, :, :end]
        pairs_BPCD[:, :heads, self.length :] = k_BHLD
        pairs_BPCD[:, heads:, self.length :] = v_BHLD
        return pairs_BPCD[:, :heads], pairs_BPCD[:, heads:]

    def add_documents(self, documents_BL: Tensor | None, length: int) -> Tensor | None:
        """Store the document ids of the next `length` tokens; returns them, or None if no mask is needed."""
        if documents_BL is None and not self.has_documents:
            return None
        self.has_documents = True
        new_BL = self.documents_BC[:, self.length : self.length + length]
        new_BL.copy_(documents_BL if documents_BL is not None else torch.zeros_like(new_BL))
        return new_BL

    def add_tokens(self, tokens_BL: Tensor, reach: int) -> tuple[Tensor, Tensor | None]:
        """Store the next tokens, whose documents are stored already; returns them after up to `reach` earlier ones.

        The second tensor holds the documents of all these; None if there are none.
        """
        assert self.tokens_BC is not None, "this cache is of a network without n-grams"
        end = self.length + tokens_BL.shape[1]
        self.tokens_BC[:, self.length : end] = tokens_BL
        here = slice(max(0, self.length - reach), end)
        return self.tokens_BC[:, here], self.documents_BC[:, here] if self.has_documents else None

    def next_positions(self, real_BL: Tensor | None, length: int) -> Tensor | None:
        """The positions of the next `length` tokens, [B, L]; None if they are equal to their slots."""
        if real_BL is None and not self.has_documents:
            self.next_B += length
            return None
        if real_BL is None:
            real_BL = torch.ones(len(self.next_B), length, dtype=torch.bool, device=self.next_B.device)
        positions_BL = (self.next_B[:, None] + real_BL.cumsum(1) - 1).clamp(min=0)
        self.next_B += real_BL.sum(1)
        return positions_BL

    def truncate(self, length: int) -> None:
        """Remove all but the first `length` tokens of each row. The cache must hold no padding."""
        assert not self.has_documents, "the number of padded slots of each row is no longer known"
        self.next_B.fill_(length)
        self.length = length

    def select(self, rows_B: Tensor) -> None:
        """Keep these rows in this order; a row may be repeated. Beam search calls this between two tokens."""
        self.pairs_NBPCD = self.pairs_NBPCD[:, rows_B]
        self.__post_init__()
        self.documents_BC, self.next_B = self.documents_BC[rows_B], self.next_B[rows_B]
        self.tokens_BC = None if self.tokens_BC is None else self.tokens_BC[rows_B]
        memory_row_B = rows_B if self.memory_row_B is None else self.memory_row_B[rows_B]
        if self.memory_row_B is not None and torch.equal(memory_row_B, self.memory_row_B):
            return  # the beams of an image change places: its memory, by far the largest part, is not copied
        self.memory_row_B = memory_row_B
        self.memory = {layer: (k[rows_B], v[rows_B]) for layer, (k, v) in self.memory.items()}
        if self.memory_mask_BM is not None:
            self.memory_mask_BM = self.memory_mask_BM[rows_B]
