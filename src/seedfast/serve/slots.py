"""Batches of rows that go on at different positions, with one key-value cache for all of them.

Shapes: B rows of a batch, L new tokens, C slots, V vocabulary, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast.models.kv_cache import KVCache
from seedfast.models.slot_cache import SlotCache
from seedfast.models.token_network import SequenceInputs
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.serve.agreement import agreeing_sizes


@dataclass
class SlotRow:
    """The cache of one row: its slot in that of the batch, and how many of its positions are in use."""

    slot: int
    length: int = 0

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = length

    def select(self, rows_B: Tensor) -> None:
        """Keep the one row that there is."""
        assert rows_B.tolist() == [0], "a slot holds one row"


@dataclass(frozen=True)
class Next:
    """The next tokens [L] of a row, and its cache."""

    tokens_L: Tensor
    row: SlotRow


class SlotBatches:
    """The evaluations of a network with a key-value cache, of up to `slots` rows together.

    network: causal, so that a row gets one token at once, or of block diffusion: then it gets a block. context: the
    most positions of a row.
    """

    def __init__(self, network: TransformerNetwork, *, context: int, slots: int) -> None:
        self.network, self.context, self.slots = network, context, slots
        self.step = network.block or 1
        self.rows = [SlotRow(slot) for slot in range(slots)]
        self._made: KVCache | None = None
        self._sizes: tuple[int, ...] = ()

    @staticmethod
    def fits(network: object) -> bool:
        """Whether the rows of a network can share a cache: of a transformer that continues texts, with self-attention
        alone."""
        return (
            isinstance(network, TransformerNetwork)
            and (network.causal or network.block is not None)
            and network.memory_width is None
            and network.time is None
        )

    def new_row(self, slot: int) -> SlotRow:
        """An empty cache in a slot, in the place of the one that was there."""
        self.rows[slot] = SlotRow(slot)
        return self.rows[slot]

    def begin(self, row: SlotRow, tokens_1L: Tensor) -> Tensor:
        """The hidden states [1, L, W] of the beginning of a text, which the cache of the row then holds."""
        length = tokens_1L.shape[1]
        own = self.network.cache(1, length)
        hidden_1LW = self.network.hidden_states(SequenceInputs(tokens_BL=tokens_1L, cache=own))
        self._cache.pairs_NBPCD[:, row.slot, :, :length] = own.pairs_NBPCD[:, 0]
        if self._cache.tokens_BC is not None and own.tokens_BC is not None:
            self._cache.tokens_BC[row.slot, :length] = own.tokens_BC[0]
        row.length = length
        return hidden_1LW

    def logits(self, nexts: list[Next]) -> list[Tensor]:
        """The logits [1, V] after the next token of each row."""
        return self._continued(nexts, self._logits)

    def hidden(self, nexts: list[Next]) -> list[Tensor]:
        """The hidden states [1, L, W] of the next tokens of each row."""
        return self._continued(nexts, lambda hidden_BLW: hidden_BLW)

    def _logits(self, hidden_BLW: Tensor) -> Tensor:
        logits_BV: Tensor = self.network.head(hidden_BLW[:, -1])
        return logits_BV

    @property
    def _cache(self) -> KVCache:
        """The cache of all slots, allocated when it is first needed."""
        if self._made is None:
            self._made = self.network.cache(self.slots, self.context)
        return self._made

    def _continued(self, nexts: list[Next], read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What is read off the hidden states of the next tokens of each row, which its cache then holds."""
        sizes = self._sizes = self._sizes or agreeing_sizes(self._trial, self.slots)
        largest, found = max(sizes), dict[int, Tensor]()
        of_slot = {each.row.slot: each for each in nexts}
        for first in range(0, self.slots, largest):
            here = [slot for slot in of_slot if first <= slot < first + largest]
            if not here:
                continue
            size = min(size for size in sizes if size > max(here) - first)
            rows = self.rows[first : first + size]
            tokens_BL = torch.zeros(len(rows), self.step, dtype=torch.int64, device=self._cache.next_B.device)
            for slot in here:
                tokens_BL[slot - first] = of_slot[slot].tokens_L
            # A row that takes no part is given tokens behind its own, where the next ones of its own will replace them.
            starts = [min(row.length, self.context - self.step) for row in rows]
            outputs = read(self._advance(self._cache, slice(first, first + size), tokens_BL, starts))
            for slot in here:
                found[slot] = outputs[slot - first, None]
                of_slot[slot].row.length += self.step
        return [found[each.row.slot] for each in nexts]

    def _advance(self, cache: KVCache, rows: slice, tokens_BL: Tensor, starts: list[int]) -> Tensor:
        """The hidden states [B, L, W] of new tokens, each row's at its own position."""
        next_B = torch.tensor(starts, device=tokens_BL.device)
        here = SlotCache.of(cache, rows, next_B, self.step)
        return self.network.hidden_states(SequenceInputs(tokens_BL=tokens_BL, cache=here))

    def _trial(self, order: list[int]) -> list[Tensor]:
        """The hidden states and logits of two examples in a cache of their own."""
        cache = self.network.cache(len(order), self.context)
        numbers = torch.arange(cache.pairs_NBPCD[:, 0].numel(), device=cache.next_B.device)
        for place, which in enumerate(order):
            cache.pairs_NBPCD[:, place] = torch.sin(numbers + which).view_as(cache.pairs_NBPCD[:, place])
        last = self.context - self.step
        tokens_BL = torch.tensor(order, device=numbers.device)[:, None].expand(-1, self.step)
        hidden_BLW = self._advance(cache, slice(0, len(order)), tokens_BL, [last // (1 + which) for which in order])
        return [torch.cat(pair, dim=-1) for pair in zip(hidden_BLW[:, -1], self._logits(hidden_BLW), strict=True)]
