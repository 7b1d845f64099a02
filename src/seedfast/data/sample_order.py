"""The order of examples: an endless stream of example ids, indexed by position."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from seedfast import keys


class SampleOrder(ABC):
    """A sample stream, of which every position is evaluated by itself."""

    _CHUNK = 4096  # positions evaluated together: the arithmetic is cheap, its Python calls are not
    _chunk: tuple[int, list[int]] = (0, [])  # replaced as a whole: several threads may call `ids` at once

    @abstractmethod
    def _evaluated(self, start: int, stop: int) -> list[int]:
        """The example ids at positions start … stop-1."""

    def introduction(self, positions: int) -> list[str]:
        """Lines about the first `positions` positions that are printed before training."""
        return []

    def ids(self, start: int, stop: int) -> list[int]:
        """The example ids at positions start … stop-1."""
        first, chunk = self._chunk
        if not first <= start <= stop <= first + len(chunk):
            first, chunk = self._chunk = (start, self._evaluated(start, max(start + self._CHUNK, stop)))
        return chunk[start - first : stop - first]


class Order(SampleOrder):
    """The sample stream: position n lies in epoch n // N, and each epoch is a keyed permutation of 0 … N-1.

    With `sampling_weights`, each example has as many of an epoch's N places as its weight demands, rounded up or down
    (systematic sampling), and the places are permuted; equal weights give each example one place. In both cases every
    position is evaluated by itself, so starting at step 10^9 costs the same as starting at step 0.
    """

    def __init__(self, *, size: int, seed: int, stream: str = "order", sampling_weights: Tensor | None = None) -> None:
        """size: the number of examples N. seed: the run's seed. stream: the name of the random stream.

        sampling_weights: relative frequencies of the examples, float64 [N].
        """
        self.size = size
        self.seed = seed
        self.stream = stream
        # The cumulative number of places up to each example, out of N. The last is N up to rounding.
        self._places = (
            None if sampling_weights is None else sampling_weights.cumsum(0) * (size / float(sampling_weights.sum()))
        )

    def ids_at(self, positions: Tensor) -> Tensor:
        """The example ids at these stream positions, int64 [B] → int64 [B]."""
        epoch = torch.div(positions, self.size, rounding_mode="floor")
        epoch_key = keys.bits(keys.derive(self.seed, self.stream), epoch, 1)[:, 0]
        place = keys.shuffle(epoch_key, positions - epoch * self.size, self.size)
        if self._places is None:
            return place
        # One offset for all places of an epoch, and another in the next: rounding averages out over the epochs.
        offset = keys.uniform(keys.derive(self.seed, self.stream, "offset"), epoch, 1, dtype=torch.float64)[:, 0]
        return torch.searchsorted(self._places, place + offset, right=True).clamp(max=self.size - 1)

    def _evaluated(self, start: int, stop: int) -> list[int]:
        return self.ids_at(torch.arange(start, stop)).tolist()
