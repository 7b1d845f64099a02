"""The placement of a run: where weights, gradients, optimizer and average are, and what its processes do together."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from seedfast.loop.distributed import DistributedContext
from seedfast.run_folder.tensors import Groups, save_groups
from seedfast.run_folder.train_state import TrainState


@dataclass(frozen=True)
class Placement:
    """The whole of everything in each process. Its methods are what other placements do differently."""

    distributed: DistributedContext

    name: ClassVar[str] = "single"
    is_sharded: ClassVar[bool] = False
    """Whether each process holds only a part of each weight: then all must make the same passes."""

    def shard(self, network: nn.Module) -> None:
        """Leave to this process its part of a new network, in place. Raises UserError for one that cannot be cut."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as the loss calls it: its backward pass adds up the gradients of all processes."""
        return network

    @property
    def gradient_factor(self) -> float:
        """The factor of each process's loss that makes the gradient that of the sum of the losses."""
        return 1.0

    def syncing(self, network: nn.Module, last: bool) -> AbstractContextManager[object]:
        """The context of a micro-batch: only the last one's backward pass exchanges gradients."""
        return nullcontext()

    def complete(self, gradients: list[Tensor]) -> None:
        """Add up over processes the gradients that no backward pass has exchanged."""

    @property
    def validating(self) -> DistributedContext:
        """The processes that share the examples of a validation."""
        return self.distributed

    @property
    def samples_here(self) -> bool:
        """Whether this process generates the samples of the training."""
        return self.distributed.is_main

    @contextmanager
    def saving(self, state: TrainState) -> Iterator[None]:
        """The context in which rank 0 may save the state; the other processes write their parts of it at its end."""
        yield

    def save(self, groups: Groups, folder: Path) -> None:
        """Write tensors into a new checkpoint folder, on rank 0. Raises OSError, of any process."""
        save_groups(groups, folder)

    def gathered(self, frozen: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """These frozen weights of the state, whole, on rank 0."""
        return frozen

    @property
    def topology(self) -> dict[str, Any]:
        """What a manifest stores of it beside the number of processes."""
        return {}
