"""Everything that a run carries from one step to the next, as one value that knows how to save itself."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seedfast.families.family import State
from seedfast.files import to_json
from seedfast.loop.ema import Average
from seedfast.loop.optimizer import Optimizer
from seedfast.loop.schedule import Plateau


@dataclass(frozen=True)
class BestRecord:
    """The best committed validation so far, of one kind of weights."""

    step: int
    loss: float
    standard_error: float | None
    examples: int
    draws: int


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

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors by group ("model", "optimizer", "ema", "family") and name."""
        groups = {
            "model": network_tensors(self.network),
            "optimizer": self.optimizer.state(),
            "ema": network_tensors(self.average.network) if self.average else {},
            "family": self.family,
        }
        return {group: tensors for group, tensors in groups.items() if tensors}

    def size(self) -> int:
        """Bytes of a checkpoint, by prediction: the optimizer's moments do not exist before the first step."""
        weights = sum(t.nbytes for t in network_tensors(self.network).values())
        return weights * (4 if self.average else 3)

    def write(self, folder: Path) -> None:
        """Write everything into `folder`: safetensors for tensors, JSON for the rest, nothing pickled."""
        for group, tensors in self.tensors().items():
            content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            try:
                save_file(content, folder / f"{group}.safetensors")
            except SafetensorError as error:
                raise OSError(str(error)) from error  # its name for a full disk
        values = {
            "step": self.step,
            "skipped": self.skipped,
            "plateau": vars(self.plateau),
            "best": {weights: vars(record) for weights, record in self.best.items()},
            "scaler": self.scaler.state_dict(),
        }
        (folder / "state.json").write_text(to_json(values))

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote. Raises ValueError if the stored weights do not fit this network."""
        groups = read_tensors(folder)
        load_network(self.network, groups["model"])
        self.optimizer.load_state(groups.get("optimizer", {}))
        if self.average:  # one that is new to this run begins at the raw weights
            load_network(self.average.network, groups.get("ema", groups["model"]))
        device = next(self.network.parameters()).device
        self.family = {name: tensor.to(device) for name, tensor in groups.get("family", {}).items()}
        values: dict[str, Any] = json.loads((folder / "state.json").read_text())
        self.step, self.skipped = values["step"], values["skipped"]
        self.plateau = Plateau(**values["plateau"])
        self.best = {weights: BestRecord(**record) for weights, record in values["best"].items()}
        if values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied weights once, under their first name."""
    names = network.state_dict(keep_vars=True)
    unique: dict[int, str] = {}
    for name, tensor in names.items():
        unique.setdefault(id(tensor), name)
    return {name: names[name].detach() for name in unique.values()}


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
    """All tensors of a checkpoint folder, by group and name, on the CPU."""
    return {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def digest(groups: dict[str, dict[str, Tensor]]) -> str:
    """One SHA-256 over every tensor: group, name, type, shape and bits."""
    total = hashlib.sha256()
    for group, tensors in sorted(groups.items()):
        for name, tensor in sorted(tensors.items()):
            total.update(f"{group}/{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
