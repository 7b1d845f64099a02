"""Sums of a training step or a validation over all processes: the loss, and diagnostics as (sum, weight)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from seedfast.loop.distributed import DistributedContext


@dataclass(frozen=True)
class Sums:
    """A number, and diagnostics by name.

    pairs_N2: the number and a zero, then the sum and the weight of each diagnostic, float64. dtypes: the type in which
    each diagnostic was summed, and is divided.
    """

    pairs_N2: Tensor
    dtypes: Mapping[str, torch.dtype]

    @property
    def first(self) -> float:
        """The number itself."""
        return float(self.pairs_N2[0, 0])

    def ratios(self) -> dict[str, Tensor]:
        """Each diagnostic's sum / weight, [] on the device; NaN for a weight of 0."""
        pairs = {
            name: pair.to(dtype) for (name, dtype), pair in zip(self.dtypes.items(), self.pairs_N2[1:], strict=True)
        }
        return {name: pair[0] / pair[1] for name, pair in pairs.items()}

    def averages(self) -> dict[str, float]:
        """The ratios as numbers, without those of weight 0."""
        weighted = self.pairs_N2[1:, 1].tolist()
        return {name: float(ratio) for (name, ratio), w in zip(self.ratios().items(), weighted, strict=True) if w}

    def to_host(self) -> Self:
        """A copy that will have arrived on the host when the device has come to this point."""
        return replace(self, pairs_N2=self.pairs_N2.to("cpu", non_blocking=True))


class Totals:
    """Adds up a number and diagnostics: within a slot as they come, and the slots of all processes at the end.

    With one slot that is the sum of each process, and then the sum over processes. With a slot for each batch of a
    step (or validation) the order of the additions does not depend on which process had which batch.
    """

    def __init__(self, place: DistributedContext, slots: int = 1) -> None:
        self._place = place
        self._numbers = [torch.zeros((), dtype=torch.float64, device=place.device) for _ in range(slots)]
        self._pairs: list[dict[str, Tensor]] = [{} for _ in range(slots)]

    def add(self, batch: int, pairs: Mapping[str, Tensor], number: Tensor | None = None) -> None:
        """Add what a batch has come to. batch: its number. pairs: each diagnostic's (sum, weight), [2]."""
        slot = batch % len(self._pairs)
        known = self._pairs[slot]
        for name, pair in pairs.items():
            known[name] = known[name] + pair if name in known else pair
        if number is not None:
            self._numbers[slot] += number

    def reduced(self) -> Sums:
        """The sums over all slots and processes.

        Ranks may know different names: one may have had no example of a kind. All ranks reduce the union of the names
        in one order, or they would wait for each other.
        """
        dtypes: dict[str, torch.dtype] = {}
        for known in self._place.all_gather({name: p.dtype for pairs in self._pairs for name, p in pairs.items()}):
            dtypes = known | dtypes
        dtypes = {name: dtypes[name] for name in sorted(dtypes)}
        zero = torch.zeros(2, dtype=torch.float64, device=self._place.device)
        slots = [
            torch.stack(
                [
                    torch.stack([number, zero[0]]),
                    *(pairs[name].double().to(self._place.device) if name in pairs else zero for name in dtypes),
                ]
            )
            for number, pairs in zip(self._numbers, self._pairs, strict=True)
        ]
        return Sums(self._place.all_reduce_(torch.stack(slots)).sum(dim=0), dtypes)
