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


def reduced(sums: Mapping[str, Tensor], distributed: DistributedContext, number: Tensor | None = None) -> Sums:
    """The sums over all processes. sums: each diagnostic's (sum, weight), [2]. number: on the device (default: 0).

    Ranks may know different names: one may have had no example of a kind. All ranks reduce the union of the names in
    one order, or they would wait for each other.
    """
    dtypes: dict[str, torch.dtype] = {}
    for known in distributed.all_gather({name: pair.dtype for name, pair in sums.items()}):
        dtypes = known | dtypes
    dtypes = {name: dtypes[name] for name in sorted(dtypes)}
    zero = torch.zeros(2, dtype=torch.float64, device=distributed.device)
    first = zero if number is None else torch.stack([number.double(), zero[0]])
    pairs = (sums[name].double().to(distributed.device) if name in sums else zero for name in dtypes)
    return Sums(distributed.all_reduce_(torch.stack([first, *pairs])), dtypes)
