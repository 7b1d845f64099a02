"""Weights, gradients, optimizer and average cut over processes: FSDP2 (`fully_shard`), plain or hybrid (HSDP).

Each process holds some rows of each weight (Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023, "PyTorch
FSDP"). Every pass gathers the weights of one block after the other, so all processes must make the same passes: the
shapes of their inputs may differ, but not their number. Validations and samples are therefore computed by all
processes on the same examples.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from seedfast.errors import UserError
from seedfast.loop.distributed import AUTOCAST, DistributedContext
from seedfast.loop.placement.placement import Placement
from seedfast.models.attention import QKV
from seedfast.models.network import Network
from seedfast.optim.shards import is_sharded, whole
from seedfast.run_folder.shards import save_shards
from seedfast.run_folder.tensors import Groups
from seedfast.run_folder.train_state import TrainState

T = TypeVar("T")
_FROZEN = "frozen"  # asks the other processes for their part of the frozen weights


def mesh_of(distributed: DistributedContext, degree: int | None) -> DeviceMesh:
    """The processes in one dimension (FSDP), or in groups of `degree` that have one copy of the weights each (HSDP)."""
    world, kind = distributed.world_size, distributed.device.type
    if degree is None:
        return init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (world // degree, degree), mesh_dim_names=("replicate", "shard"))


@dataclass(frozen=True)
class Sharded(Placement):
    """FSDP, or with a mesh of two dimensions HSDP."""

    mesh: DeviceMesh

    is_sharded: ClassVar[bool] = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name as an option."""
        return "fsdp" if self.mesh.ndim == 1 else "hsdp"

    def shard(self, network: nn.Module) -> None:
        """Cut each block of a network on the host as a group of its own, and the rest as one: embeddings, norm, head.

        The rest stays gathered from the beginning of a forward pass to the end of its backward pass: the head is
        called for one chunk of positions after the other, and may share its weight with the embedding.
        """
        self._refuse(network)
        for module in network.modules():
            if isinstance(module, Network):
                module.same_passes = True
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.contiguous()  # rows of channels-last filters are not in one piece
        blocks, whole_parts = (network.blocks_in_order, network.unsharded) if isinstance(network, Network) else ((), ())
        kept = {parameter for parameter in network.parameters() if not parameter.ndim}  # a number has no rows
        kept |= {parameter for module in whole_parts for parameter in module.parameters()}
        for parameter in kept:
            parameter.data = parameter.data.to(self.distributed.device)
        for block in reversed(blocks):  # one inside another before that one
            if set(block.parameters()) - kept:
                self._cut(block, kept)
        self._cut(network, kept)
        # After a pass without gradients FSDP would leave the rest gathered, with the weights of that step.
        network.register_forward_hook(_release)
        if isinstance(network, Network):
            register_fsdp_forward_method(network, "inside")
            network.inside = partial(_inside, network, network.inside)  # type: ignore[method-assign]

    def _refuse(self, network: nn.Module) -> None:
        """Raise UserError for a network that FSDP cannot cut."""
        if any(not parameter.is_floating_point() for parameter in network.parameters()):
            raise UserError(
                f"placement is {self.name}, but this network stores weights in 4 bits, which cannot be cut into rows: "
                "pass --placement ddp, or another --model.adapter.base-precision."
            )
        if len({parameter.dtype for parameter in network.parameters()}) > 1:
            raise UserError(
                f"placement is {self.name}, but the weights of this network have several types, which are not gathered "
                "together: pass --placement ddp, or --model.adapter.base-precision fp32."
            )
        if self.distributed.precision == "fp16" and any(p.requires_grad and not p.ndim for p in network.parameters()):
            raise UserError(
                f"placement is {self.name} and precision fp16, whose scaler cannot look at rows and single numbers "
                "together, as this network has: pass --precision bf16."
            )

    def _cut(self, module: nn.Module, kept: set[nn.Parameter]) -> None:
        policy = MixedPrecisionPolicy(param_dtype=self._gathered_type(module), reduce_dtype=torch.float32,
                                      cast_forward_inputs=False)  # fmt: skip
        cut: Any = fully_shard(module, mesh=self.mesh, mp_policy=policy, ignored_params=kept)
        cut.set_gradient_divide_factor(1.0)  # a step divides by the weight of the global batch
        cut.set_force_sum_reduction_for_comms(True)  # as gloo has no sum with a factor

    def _gathered_type(self, module: nn.Module) -> torch.dtype | None:
        """The type in which weights are gathered; None for their own.

        In mixed precision autocast rounds the matrices of products. Rounded before they are sent they have the same
        bits, and half the traffic. Gains, biases and embeddings it does not round.
        """
        of_products = all(
            isinstance(part, nn.Linear | nn.Conv2d | QKV) or not list(part.parameters(recurse=False))
            for part in module.modules()
        )
        is_matrices = all(parameter.ndim >= 2 for parameter in module.parameters())
        return AUTOCAST.get(self.distributed.precision) if of_products and is_matrices else None

    def syncing(self, network: nn.Module, last: bool) -> AbstractContextManager[object]:
        assert isinstance(network, FSDPModule)
        network.set_requires_gradient_sync(last)
        return nullcontext()

    def complete(self, gradients: list[Tensor]) -> None:
        for gradient in gradients:
            if not is_sharded(gradient):
                dist.all_reduce(gradient)

    @property
    def validating(self) -> DistributedContext:
        return replace(self.distributed, rank=0, world_size=1)

    @property
    def samples_here(self) -> bool:
        return True

    @contextmanager
    def saving(self, state: TrainState) -> Iterator[None]:
        place = self.distributed
        try:
            yield
        finally:
            if place.is_main:
                place.broadcast(None)
        while not place.is_main and (asked := place.broadcast("")) is not None:
            if asked == _FROZEN:
                _gather(state.frozen())
            else:
                self._save(state.tensors(), Path(asked))

    def save(self, groups: Groups, folder: Path) -> None:
        self.distributed.broadcast(str(folder))
        self._save(groups, folder)

    def _save(self, groups: Groups, folder: Path) -> None:
        """Write this process's parts. Raises OSError on rank 0 if any process could not."""
        problem = save_shards(groups, folder)
        problems = [each for each in self.distributed.all_gather(problem) if each]
        if problems and self.distributed.is_main:
            raise OSError(problems[0])

    def gathered(self, frozen: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.distributed.broadcast(_FROZEN)
        return _gather(frozen)

    @property
    def topology(self) -> dict[str, Any]:
        return {"placement": self.name, "mesh": list(self.mesh.shape)}


def _gather(frozen: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name: whole(tensor) for name, tensor in frozen.items()}


def _release(network: Any, inputs: object, output: object) -> None:
    if not torch.is_grad_enabled() and not getattr(network, "is_open", False):
        network.reshard()


@torch.no_grad()
def _inside(network: Any, gathered: Callable[[Callable[[], T]], T], compute: Callable[[], T]) -> T:
    """`Network.inside` of a network that is cut: its passes leave the weights gathered until the end."""
    network.is_open = True
    try:
        return gathered(compute)
    finally:
        network.is_open = False
        network.reshard()
