"""The device, the precision and the ranks of a run. A single process is the simplest case."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from seedfast.errors import TrainingStopped, UserError
from seedfast.loop import lost_ranks

Precision = Literal["fp32", "bf16", "fp16"]
T = TypeVar("T")
_MEETING = timedelta(minutes=1)  # that processes wait for each other's start at least, whatever their time limit is
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type of products in each mixed precision."""


def _device(name: str, *, local_rank: int) -> torch.device:
    """The device of a name ("auto", "cpu", "cuda"), in deterministic mode."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, not {name!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but this PyTorch finds no CUDA device; pass --device cpu or auto.")
    # The same as use_deterministic_algorithms(True), which spends seconds on importing a compiler only to set the
    # option that this variable sets.
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory with NaN would find reads of uninitialised memory, but costs 2 % of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # cuBLAS is only deterministic with a fixed workspace; it reads this at its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            f"This machine has {count} GPUs, and LOCAL_RANK is {local_rank}: start at most {count} processes on it "
            "(--nproc-per-node)."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _backend(device: torch.device) -> str:
    """The libraries of messages: objects go from host to host by gloo, so exchanging them does not wait for a GPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _place_in_group() -> tuple[int, int, int]:
    """The rank of this process, the number of processes, and the rank on this machine; 0, 1, 0 without a launcher.

    Raises UserError for variables of a launcher that do not name a process of a group.
    """
    world = _number("WORLD_SIZE", "1")
    rank, local_rank = (_number(name, "0" if world == 1 else "") for name in ("RANK", "LOCAL_RANK"))
    has_address = world == 1 or (os.environ.get("MASTER_ADDR") and _number("MASTER_PORT", "") > 0)
    if not (has_address and 0 <= rank < world and local_rank >= 0):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        found = ", ".join(f"{name}={os.environ[name]}" if name in os.environ else f"no {name}" for name in names)
        raise UserError(
            f"The environment names no process of a group ({found}): start the processes with torchrun, which sets "
            "these variables, or unset them to train in one process."
        )
    return rank, world, local_rank


def _number(name: str, default: str) -> int:
    """A variable of the environment as a whole number; -1 if it is none."""
    value = os.environ.get(name, default)
    return int(value) if value.isdecimal() else -1


def _store(limit: timedelta) -> Store:
    """The store by which the processes of this start of the group find each other. limit: how long one waits there.

    torchrun's static rendezvous keeps one store over restarts (`--max-restarts`): without a prefix the processes would
    find the addresses of dead ones in it and wait for them. The count of restarts is one agent's, so it is no common
    prefix where there are several.
    """
    store: Store = next(rendezvous("env://", timeout=limit))[0]
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


@dataclass(frozen=True)
class DistributedContext:
    """One process of a run: its device, its precision, its rank and the number of processes."""

    device: torch.device
    precision: Precision = "fp32"
    rank: int = 0
    world_size: int = 1
    timeout: float = 30.0
    """Minutes that a collective waits for all ranks."""

    @classmethod
    def single(cls, device: str, precision: Precision) -> "DistributedContext":
        """A single process on the chosen device. Raises UserError if CUDA is required and absent."""
        return cls(_device(device, local_rank=0), precision)

    @classmethod
    def join(cls, device: str, precision: Precision, timeout: float, *, group: bool = False) -> "DistributedContext":
        """The process group of torchrun, or a single process without it. Errors as in `single`.

        timeout: minutes that a process waits for the others. group: whether a single process too is a group, of one.
        """
        (rank, world, local_rank), limit = _place_in_group(), timedelta(minutes=timeout)
        if world == 1:
            context = replace(cls.single(device, precision), timeout=timeout)
            if group:
                dist.init_process_group(_backend(context.device), store=HashStore(), rank=0, world_size=1)
            return context
        place = _device(device, local_rank=local_rank)
        try:
            dist.init_process_group(
                _backend(place), store=_store(max(limit, _MEETING)), rank=rank, world_size=world, timeout=limit
            )
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = str(error).partition("\n")[0].rstrip(".")
            raise TrainingStopped(
                f"Process {rank} of {world} does not meet the others at {address}: {reason}. Start all of them, each "
                "with another RANK and the same address, as torchrun does.",
                speaker=rank,
            ) from error
        return cls(place, precision, rank, world, timeout)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the network computes: float32, or mixed precision with float32 weights."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self.precision])

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            tensor.copy_(on_device)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on all ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all processes have come this far."""
        self.broadcast(None)

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on all ranks."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Raise TrainingStopped instead of the error by which this process notices that another has ended or hangs."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not lost_ranks.is_of_group(error):
                raise
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which would come before the sentence
            reason, speaker = lost_ranks.reason(error, self.rank, self.world_size, self.timeout)
            raise TrainingStopped(
                f"{reason}; the checkpoints are intact: run the same command again to continue.", speaker=speaker
            ) from error

    def finish(self) -> None:
        """Leave the distributed job."""
        if dist.is_initialized():
            dist.destroy_process_group()
