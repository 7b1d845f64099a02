"""Everything that a run carries from one step to the next, as one value that knows how to save itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seedfast.families.generator import State
from seedfast.files import FileDigest, to_json
from seedfast.optim.ema import Average
from seedfast.optim.lr_schedule import Plateau
from seedfast.optim.optimizer import Optimizer
from seedfast.run_folder.tensors import keep, save_tensors


@dataclass(frozen=True)
class BestRecord:
    """The best committed validation so far, of one kind of weights."""

    step: int
    loss: float
    standard_error: float | None
    examples: int
    draws: int
    metric: str
    """What it is the best by: "loss", or one of the family's metrics."""
    value: float

    @staticmethod
    def of(record: Mapping[str, Any]) -> "BestRecord":
        """A record that a checkpoint holds; the oldest know no metric but the loss."""
        return BestRecord(**{"metric": "loss", "value": record["loss"], **record})


@dataclass(kw_only=True)
class TrainState:
    """The state between two steps. Besides these there is none: order and noise are functions of `step`."""

    network: nn.Module
    optimizer: Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler
    family: State
    step: int = 0
    skipped: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    best: dict[str, BestRecord] = field(default_factory=dict)
    kept: dict[str, FileDigest] = field(default_factory=dict)
    """The file that holds what is never trained, once it has been written or read: its name and facts."""

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors that change, by group ("model", "optimizer", "ema", "family") and name."""
        still = self.frozen().keys()

        def changing(network: nn.Module) -> dict[str, Tensor]:
            return {name: tensor for name, tensor in network_tensors(network).items() if name not in still}

        groups = {
            "model": changing(self.network),
            "optimizer": self.optimizer.state(),
            "ema": changing(self.average.network) if self.average else {},
            "family": self.family,
        }
        return {group: tensors for group, tensors in groups.items() if tensors}

    def frozen(self) -> dict[str, Tensor]:
        """The parameters that are not trained, by name: they are in no checkpoint, but once beside them all."""
        trained = {id(p) for p in self.network.parameters() if p.requires_grad}
        parameters = {id(p) for p in self.network.parameters()} - trained
        named = named_tensors(self.network)
        return {name: tensor.detach() for name, tensor in named.items() if id(tensor) in parameters}

    def size(self) -> tuple[int, int]:
        """Bytes of a checkpoint and of what is kept once, by prediction: the moments come with the first step."""
        weights = sum(tensor.nbytes for tensor in self.tensors()["model"].values())
        return weights * (4 if self.average else 3), sum(tensor.nbytes for tensor in self.frozen().values())

    def write(self, folder: Path) -> Mapping[str, FileDigest]:
        """Write everything into `folder`: safetensors for tensors, JSON for the rest, nothing pickled.

        Returns the facts of the file beside it that holds what is never trained, if there is such.
        """
        if not self.kept and (frozen := self.frozen()):
            self.kept = dict([keep(frozen, folder.parent)])
        for group, tensors in self.tensors().items():
            save_tensors(tensors, folder / f"{group}.safetensors")
        values = {
            "step": self.step,
            "skipped": self.skipped,
            "plateau": vars(self.plateau),
            "best": {weights: vars(record) for weights, record in self.best.items()},
            "scaler": self.scaler.state_dict(),
            "kept": self.kept,
        }
        (folder / "state.json").write_text(to_json(values))
        return self.kept

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote. Raises ValueError if the stored weights do not fit this network."""
        groups = read_tensors(folder)
        frozen = groups.get("frozen", {})
        load_network(self.network, groups["model"] | frozen)
        self.optimizer.load_state(groups.get("optimizer", {}))
        if self.average:  # one that is new to this run begins at the raw weights
            load_network(self.average.network, groups.get("ema", groups["model"]) | frozen)
        device = next(self.network.parameters()).device
        self.family = {name: tensor.to(device) for name, tensor in groups.get("family", {}).items()}
        values: dict[str, Any] = json.loads((folder / "state.json").read_text())
        self.step, self.skipped, self.kept = values["step"], values["skipped"], values.get("kept", {})
        self.plateau = Plateau(**values["plateau"])
        self.best = {weights: BestRecord.of(record) for weights, record in values["best"].items()}
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers themselves, by name; tied weights once, under their first name."""
    names = network.state_dict(keep_vars=True)
    unique: dict[int, str] = {}
    for name, tensor in names.items():
        unique.setdefault(id(tensor), name)
    return {name: names[name] for name in unique.values()}


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """`named_tensors` without their history."""
    return {name: tensor.detach() for name, tensor in named_tensors(network).items()}


@torch.no_grad()
def load_network(network: nn.Module, stored: dict[str, Tensor]) -> None:
    """Copy stored tensors into a network. Raises ValueError naming the first tensor that does not fit."""
    own = network_tensors(network)
    for name in sorted(own.keys() | stored.keys()):
        if name not in stored or name not in own:
            where = "the checkpoint" if name not in stored else "this network"
            raise ValueError(f"{where} has no tensor {name}")
        if own[name].shape != stored[name].shape:
            shapes = f"{tuple(stored[name].shape)} in the checkpoint and {tuple(own[name].shape)} in this network"
            raise ValueError(f"{name} has shape {shapes}")
        own[name].copy_(stored[name])


def read_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """All tensors of a checkpoint, by group and name, on the CPU; "frozen" is what no step of the run changes."""
    groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    for name in json.loads((folder / "state.json").read_text()).get("kept", {}):
        groups["frozen"] = load_file(folder.parent / name)
    return groups


def digest(groups: dict[str, dict[str, Tensor]]) -> str:
    """One SHA-256 over every tensor: group, name, type, shape and bits."""
    total = hashlib.sha256()
    for group, tensors in sorted(groups.items()):
        for name, tensor in sorted(tensors.items()):
            total.update(f"{group}/{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
