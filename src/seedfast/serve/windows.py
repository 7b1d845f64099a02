"""Batches of windows of tokens that a network reads in both directions, as diffusion models do.

Shapes: B rows of a batch, L positions, W width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seedfast.models.token_network import SequenceInputs, TokenNetwork
from seedfast.serve.agreement import agreeing_sizes

STEP = 32
"""A window is padded to a multiple of this, so that texts of many lengths have few shapes."""


class WindowBatches:
    """The evaluations of a network without a cache, of up to `slots` windows together."""

    def __init__(self, network: TokenNetwork[Any], *, context: int, slots: int) -> None:
        self.network, self.context, self.slots = network, context, slots
        self._sizes: dict[int, tuple[int, ...]] = {}

    def padded(self, length: int) -> int:
        """The length to which a window is padded; windows that are padded to the same one can be read together."""
        return min(self.context, -(-length // STEP) * STEP)

    def hidden(self, windows: list[Tensor]) -> list[Tensor]:
        """The hidden states [1, L, W] of each window of token ids, int64 [L]; all are padded to the same length."""
        length = self.padded(len(windows[0]))
        if length not in self._sizes:
            numbers = torch.arange(length, device=windows[0].device)
            examples = [numbers % 2, numbers % 3 % 2]
            self._sizes[length] = agreeing_sizes(
                lambda order: list(self._read([examples[which] for which in order], length)), self.slots
            )
        found: list[Tensor] = []
        while len(found) < len(windows):
            size = fitting(len(windows) - len(found), self._sizes[length])
            some = windows[len(found) : len(found) + size]
            found += self._read([*some, *some[:1] * (size - len(some))], length)[: len(some)]
        return [hidden_LW[None, : len(tokens_L)] for hidden_LW, tokens_L in zip(found, windows, strict=True)]

    def _read(self, windows: Sequence[Tensor], length: int) -> Tensor:
        """The hidden states [B, L, W] of windows that are padded to a length."""
        tokens_BL = torch.zeros(len(windows), length, dtype=torch.int64, device=windows[0].device)
        real_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        for row, tokens_L in enumerate(windows):
            tokens_BL[row, : len(tokens_L)], real_BL[row, : len(tokens_L)] = tokens_L, True
        return self.network.hidden_states(SequenceInputs(tokens_BL=tokens_BL, real_BL=real_BL))


def fitting(count: int, sizes: Sequence[int]) -> int:
    """The largest size that `count` rows fill; where they fill none, the smallest."""
    return max((size for size in sizes if size <= count), default=min(sizes))
