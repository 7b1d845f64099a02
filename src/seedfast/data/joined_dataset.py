"""Several datasets as one: the sources of a mixture, the shards of a source, both splits of a text."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch

from seedfast.data.dataset import Batch, Dataset, InDocuments, Integers


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

    def part_of(self, ids: Sequence[int] | Integers) -> Integers:
        """The number of the part that each example belongs to, int64 [B]."""
        return np.searchsorted(self.starts, np.asarray(ids, np.int64), side="right") - 1

    def documents(self, ids: Integers) -> Integers | None:
        """The document of each example, int64 [B]; None where those of a part are independent."""
        part_B, found_B, first = self.part_of(ids), np.zeros(len(ids), np.int64), 0
        for number in np.unique(part_B).tolist():
            part, here_B = self.parts[number], part_B == number
            own = part.documents(ids[here_B] - self.starts[number]) if isinstance(part, InDocuments) else None
            if own is None:
                return None
            found_B[here_B] = own + first
            first += int(own.max()) + 1
        return found_B

    def ranges(self) -> Iterator[range]:
        """The ids of each part."""
        return (range(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True))
