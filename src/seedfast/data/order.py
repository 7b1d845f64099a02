"""Which example comes when: an endless stream of example ids, indexed by one integer."""

import torch
from torch import Tensor

from seedfast import keys


class Order:
    """The sample stream: position n lies in epoch n // N, and each epoch is a keyed permutation of 0 … N-1.

    Every position is evaluated on its own, so starting at step 10^9 costs the same as starting at step 0.
    """

    _CHUNK = 4096  # positions that are evaluated together: the arithmetic is cheap, its Python calls are not

    def __init__(self, *, size: int, seed: int, stream: str = "order") -> None:
        """size: the number of examples N. seed: the run's seed. stream: whose order it is."""
        self.size = size
        self.seed = seed
        self.stream = stream
        self._held: tuple[int, list[int]] = (0, [])  # replaced as a whole: several threads may ask at once

    def ids_at(self, positions: Tensor) -> Tensor:
        """The example ids at these stream positions, int64 [B] → int64 [B]."""
        epoch = torch.div(positions, self.size, rounding_mode="floor")
        epoch_key = keys.bits(keys.derive(self.seed, self.stream), epoch, 1)[:, 0]
        return keys.shuffle(epoch_key, positions - epoch * self.size, self.size)

    def ids(self, start: int, stop: int) -> list[int]:
        """The example ids at positions start … stop-1."""
        first, held = self._held
        if not first <= start <= stop <= first + len(held):
            count = max(self._CHUNK, stop - start)
            first, held = self._held = (start, self.ids_at(torch.arange(start, start + count)).tolist())
        return held[start - first : stop - first]
