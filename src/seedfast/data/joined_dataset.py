"""Several datasets as one: the sources of a mixture, the shards of a source, both splits of a text."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch

from seedfast.data.dataset import Batch, Dataset


class JoinedDataset:
    """Datasets one after the other: the ids of each follow those of the one before."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        """parts: datasets whose batches have the same tensors."""
        self.parts = tuple(parts)
        self.starts = np.array([0, *accumulate(map(len, self.parts))])
        """The first id of each part, and the number of all examples."""

    def __len__(self) -> int:
        """The number of examples of all parts."""
        return int(self.starts[-1])

    def batch(self, ids: list[int]) -> Batch:
        """The examples with these ids, in this order. Raises IndexError for an unknown id."""
        if not all(0 <= number < len(self) for number in ids):
            raise IndexError(f"example ids lie in 0 … {len(self) - 1}, not in {min(ids)} … {max(ids)}")
        part_B = self.part_of(ids)
        rows, batches = list[int](), list[Batch]()
        for part in np.unique(part_B).tolist() or [0]:  # each part is asked once
            here = np.flatnonzero(part_B == part)
            batches.append(self.parts[part].batch([ids[row] - int(self.starts[part]) for row in here]))
            rows += here.tolist()
        if len(batches) == 1:
            return batches[0]
        order = torch.tensor(rows, dtype=torch.int64).argsort()
        return {name: torch.cat([batch[name] for batch in batches])[order] for name in batches[0]}

    def part_of(self, ids: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """The number of the part that each example belongs to, int64 [B]."""
        return np.searchsorted(self.starts, np.asarray(ids, np.int64), side="right") - 1

    def ranges(self) -> Iterator[range]:
        """The ids of each part."""
        return (range(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True))
