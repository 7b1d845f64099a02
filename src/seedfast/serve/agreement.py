"""Batch sizes whose rows have the same bits.

A matrix product may add in another order when the batch has another size: then a row depends on the number of its
neighbours. The order does not depend on the values, so a trial finds the sizes that agree (docs/serve.md).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Trial = Callable[[list[int]], Sequence[Tensor]]
"""Which of two examples each row of a batch holds, such as [0, 1, 0, 1] → the output of each row."""


def agreeing_sizes(trial: Trial, most: int) -> tuple[int, ...]:
    """The sizes of batches, up to `most`, in which a row has the same bits at every place beside every neighbour.

    They are powers of two and `most`. Of several sets of sizes that agree among themselves it is the one with size 1,
    unless 1 agrees with no other: then the one with the largest.
    """
    sizes = sorted({1, most} | {1 << power for power in range(most.bit_length())})
    outputs = {size: found for size in sizes if (found := _of_both(trial, size)) is not None}
    for reference in (1, max(outputs)):
        agreeing = tuple(size for size, found in outputs.items() if _is_same(found, outputs[reference]))
        if len(agreeing) > 1:
            break
    return agreeing


def _of_both(trial: Trial, size: int) -> tuple[Tensor, Tensor] | None:
    """The outputs of both examples in batches of a size; None if they differ between places or neighbours."""
    orders = [[(place + first) % 2 for place in range(size)] for first in (0, 1)]
    found: dict[int, Tensor] = {}
    for order in orders:
        for example, output in zip(order, trial(order), strict=True):
            if not torch.equal(found.setdefault(example, output), output):
                return None
    return found[0], found[1]


def _is_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
