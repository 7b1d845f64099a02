"""The training state: everything that a run carries from one step to the next, with its form on disk."""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seedfast.errors import UserError
from seedfast.families.generator import State
from seedfast.files import FileDigest, to_json
from seedfast.optim.ema import Average
from seedfast.optim.lr_schedule import Plateau
from seedfast.optim.optimizer import Optimizer
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.records import STATE, BestRecord, SavedState
from seedfast.run_folder.tensors import FROZEN, Groups, Staging, Stored, load_groups, save_shared


class Writer(Protocol):
    """Writes the tensors of a checkpoint, of which this process may have a part."""

    def save(self, groups: Groups, folder: Path) -> None:
        """Write tensors into a new folder. Raises OSError."""
        ...

    def gathered(self, frozen: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """These frozen weights, whole."""
        ...


class NoLargerThan(TorchFunctionMode):
    """A context in which no more numbers are allocated than a checkpoint can hold the weights of.

    The sizes of a network come from `run.yaml`, and that of a stranger may name any. The bound is far above the
    weights: a network also has buffers, and four-bit weights are built in float32.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._folder = checkpoint.folder
        files = [path for group in checkpoint.tensor_files.values() for path in group]
        self._left = (1 << 22) + 16 * sum(path.stat().st_size for path in files)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what is allocated. Raises UserError beyond the bound."""
        if func is torch.empty:
            sizes = args[0] if args and isinstance(args[0], list | tuple) else args
            self._left -= 1 + math.prod(size for size in sizes if isinstance(size, int))
            if self._left < 0:
                raise UserError(
                    f"The run.yaml of {self._folder} describes a network far larger than the weights stored with it."
                )
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True)
class StateSnapshot:
    """A training state at one step: what a checkpoint holds of it.

    groups: the tensors, and the frozen ones ("frozen") until they are in their shared file. saved: everything else.
    """

    groups: Groups
    saved: SavedState

    def write(self, folder: Path, writer: Writer) -> Mapping[str, FileDigest]:
        """Write it into a new checkpoint folder: safetensors for tensors, JSON for the rest, nothing pickled.

        Returns the digests of the shared files that the checkpoint needs, by name. Raises OSError.
        """
        groups, shared = dict(self.groups), self.saved.shared
        if frozen := groups.pop(FROZEN, None):
            shared = dict([save_shared(writer.gathered(frozen), folder.parent)])
        writer.save(groups, folder)
        (folder / STATE).write_text(to_json(replace(self.saved, shared=shared).as_json()), "utf-8")
        return shared


@dataclass(kw_only=True)
class TrainState:
    """The state between two steps. There is no other state: data order and noise are functions of `step`."""

    network: nn.Module
    optimizer: Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler
    family: State
    step: int = 0
    skipped: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    best: dict[str, BestRecord] = field(default_factory=dict)
    shared: dict[str, FileDigest] = field(default_factory=dict)
    """The file of frozen weights beside the checkpoints, by name; empty before it is written or read."""

    def tensors(self) -> Groups:
        """All tensors that change, by group ("model", "optimizer", "ema", "family") and name."""
        frozen = self.frozen().keys()

        def changing(network: nn.Module) -> dict[str, Tensor]:
            return {name: tensor for name, tensor in network_tensors(network).items() if name not in frozen}

        groups = {
            "model": changing(self.network),
            "optimizer": self.optimizer.state(),
            "ema": changing(self.average.network) if self.average else {},
            "family": self.family,
        }
        return {group: tensors for group, tensors in groups.items() if tensors}

    def frozen(self) -> dict[str, Tensor]:
        """The parameters that are not trained, by name. They are in no checkpoint but in one shared file."""
        trained = {id(p) for p in self.network.parameters() if p.requires_grad}
        parameters = {id(p) for p in self.network.parameters()} - trained
        named = named_tensors(self.network)
        return {name: tensor.detach() for name, tensor in named.items() if id(tensor) in parameters}

    def size(self) -> tuple[int, int]:
        """Predicted bytes of a checkpoint and of the shared file. The moments appear only with the first step."""
        weights = sum(tensor.nbytes for tensor in self.tensors()["model"].values())
        return weights * (4 if self.average else 3), sum(tensor.nbytes for tensor in self.frozen().values())

    def snapshot(self, staging: Staging | None = None) -> StateSnapshot:
        """The state at this step, by value except for the tensors, which are copied if there is a staging memory."""
        saved = SavedState(
            step=self.step,
            skipped=self.skipped,
            plateau=dict(vars(self.plateau)),
            best=dict(self.best),
            scaler=self.scaler.state_dict(),
            shared=dict(self.shared),
        )
        tensors = self.tensors()
        frozen = {} if self.shared else self.frozen()
        groups = (staging.copy(tensors) if staging else tensors) | ({FROZEN: frozen} if frozen else {})
        return StateSnapshot(groups=groups, saved=saved)

    def read(self, checkpoint: Checkpoint) -> None:
        """Restore what `StateSnapshot.write` wrote. Raises ValueError if the stored weights do not fit this network.

        Other weights may be frozen now than then: a run can be allowed to freeze, or to train, a part of its network.
        """
        groups, saved = checkpoint.stored(), checkpoint.state
        then, now = groups.get(FROZEN, {}), self.frozen()
        weights = then | groups["model"]
        load_network(self.network, weights)
        own = dict(self.network.named_parameters())
        self.optimizer.load_state(
            {key: each.like(own.get(key.rpartition("/")[0])) for key, each in groups.get("optimizer", {}).items()}
        )
        if self.average:  # an average that is new to this run starts at the raw weights, which it shares where frozen
            shared = {name: weights[name] for name in now}
            load_network(self.average.network, then | groups.get("ema", groups["model"]) | shared)
        device = next(self.network.parameters()).device
        adapted = {name: each.whole().to(device) for name, each in groups.get("family", {}).items()}
        self.family = {name: adapted.get(name, initial) for name, initial in self.family.items()}
        self.step, self.skipped = saved.step, saved.skipped
        self.shared = checkpoint.shared if then.keys() == now.keys() else {}  # else the next save writes another file
        self.plateau, self.best = Plateau(**saved.plateau), dict(saved.best)
        if saved.scaler:
            self.scaler.load_state_dict(dict(saved.scaler))


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, attached to the graph; tied weights once, under their first name."""
    names = network.state_dict(keep_vars=True)
    unique: dict[int, str] = {}
    for name, tensor in names.items():
        unique.setdefault(id(tensor), name)
    return {name: names[name] for name in unique.values()}


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, detached; tied weights once, under their first name."""
    return {name: tensor.detach() for name, tensor in named_tensors(network).items()}


@torch.no_grad()
def load_network(network: nn.Module, stored: Mapping[str, Tensor | Stored]) -> None:
    """Copy stored tensors into a network, of which a process that shares it reads its own rows.

    Raises ValueError naming the first tensor that does not fit.
    """
    own = network_tensors(network)
    for name in sorted(own.keys() | stored.keys()):
        if name not in stored or name not in own:
            where = "the checkpoint" if name not in stored else "this network"
            raise ValueError(f"{where} has no tensor {name}")
        if own[name].shape != stored[name].shape:
            shapes = f"{tuple(stored[name].shape)} in the checkpoint and {tuple(own[name].shape)} in this network"
            raise ValueError(f"{name} has shape {shapes}")
        found = stored[name]
        own[name].copy_(found if isinstance(found, Tensor) else found.like(own[name]))


def read_tensors(folder: Path, groups: Collection[str] | None = None) -> Groups:
    """The tensors of a checkpoint folder by group and name, on the CPU; None: all groups.

    "frozen" is the group of the weights that no step of the run changes.
    """
    return load_groups(Checkpoint(folder, 0).tensor_files, groups)


def digest(groups: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256 over group, name, type, shape and bits of every tensor, in hexadecimal."""
    total = hashlib.sha256()
    for group, tensors in sorted(groups.items()):
        for name, tensor in sorted(tensors.items()):
            total.update(f"{group}/{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
