"""The whole network in each of several processes, which share the examples of a batch."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from seedfast.loop.placement.placement import Placement


@dataclass(frozen=True)
class Replicated(Placement):
    """DistributedDataParallel (Li et al. 2020): gradients are averaged while the backward pass computes others."""

    name: ClassVar[str] = "ddp"

    def wrap(self, network: nn.Module) -> nn.Module:
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    @property
    def gradient_factor(self) -> float:
        """DistributedDataParallel averages; the weight is that of all processes, so this undoes the mean."""
        return float(self.distributed.world_size)

    def syncing(self, network: nn.Module, last: bool) -> AbstractContextManager[object]:
        assert isinstance(network, DistributedDataParallel)
        return nullcontext() if last else network.no_sync()
