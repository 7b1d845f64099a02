"""Which example comes when: an endless stream of example ids, indexed by one integer."""

import torch
from torch import Tensor

from seedfast import keys


class Order:
    """The sample stream: position n lies in epoch n // N, and each epoch is a keyed permutation of 0 … N-1.

    With `sampling_weights`, an epoch is instead N places in a keyed order, of which each example has as many as its
    weight demands, rounded up or down (systematic sampling); equal weights give each example one place. Either way
    every position is evaluated on its own, so starting at step 10^9 costs the same as starting at step 0.
    """

    _CHUNK = 4096  # positions that are evaluated together: the arithmetic is cheap, its Python calls are not

    def __init__(self, *, size: int, seed: int, stream: str = "order", sampling_weights: Tensor | None = None) -> None:
        """size: the number of examples N. seed: the run's seed. stream: whose order it is.

        sampling_weights: how often each example comes, relative to the others, float64 [N].
        """
        self.size = size
        self.seed = seed
        self.stream = stream
        # How many places the examples up to each one have, out of N. The last rounds to N exactly.
        self._places = (
            None if sampling_weights is None else sampling_weights.cumsum(0) * (size / float(sampling_weights.sum()))
        )
        self._held: tuple[int, list[int]] = (0, [])  # replaced as a whole: several threads may ask at once

    def ids_at(self, positions: Tensor) -> Tensor:
        """The example ids at these stream positions, int64 [B] → int64 [B]."""
        epoch = torch.div(positions, self.size, rounding_mode="floor")
        epoch_key = keys.bits(keys.derive(self.seed, self.stream), epoch, 1)[:, 0]
        place = keys.shuffle(epoch_key, positions - epoch * self.size, self.size)
        if self._places is None:
            return place
        # One offset for all places of an epoch, and another in the next, so that rounding evens out over the epochs.
        offset = keys.uniform(keys.derive(self.seed, self.stream, "offset"), epoch, 1, dtype=torch.float64)[:, 0]
        return torch.searchsorted(self._places, place + offset, right=True).clamp(max=self.size - 1)

    def ids(self, start: int, stop: int) -> list[int]:
        """The example ids at positions start … stop-1."""
        first, held = self._held
        if not first <= start <= stop <= first + len(held):
            count = max(self._CHUNK, stop - start)
            first, held = self._held = (start, self.ids_at(torch.arange(start, start + count)).tolist())
        return held[start - first : stop - first]
