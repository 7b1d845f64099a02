"""The optimizers: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.optim.muon import StackedMuon


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights are updated."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the momentum of hidden matrices and filters (Jordan et al. 2024); the rest is AdamW's."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's guard against division by zero."""
    weight_decay: float = 0.1
    """Decoupled weight decay; acts on matrices and embeddings, never on gains and biases."""
    matrix_lr: float | None = None
    """Muon: peak learning rate of the hidden matrices (default 0.015)."""
    momentum: float | None = None
    """Muon: Nesterov momentum (default 0.95)."""

    def __post_init__(self) -> None:
        if self.kind == "adamw" and (self.matrix_lr, self.momentum) != (None, None):
            raise UserError(
                "optimizer.matrix_lr and optimizer.momentum belong to Muon; "
                "leave them out or set optimizer.kind to muon."
            )
        for key, value in (("lr", self.lr), ("matrix_lr", self.matrix_lr), ("eps", self.eps)):
            if value is not None and not value > 0:
                raise UserError(f"optimizer.{key} must be positive, not {value}.")
        if not all(0 <= beta < 1 for beta in (*self.betas, self.momentum or 0)) or self.weight_decay < 0:
            raise UserError(
                f"optimizer.betas ({self.betas}) and optimizer.momentum ({self.momentum}) must lie in [0, 1) and "
                f"optimizer.weight_decay ({self.weight_decay}) must not be negative."
            )

    def build(self, network: nn.Module) -> "Optimizer":
        """The optimizer of a network, with the usual parameter groups."""
        matrices, decayed, plain = _groups(network, muon=self.kind == "muon")
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(
                StackedMuon(
                    matrices,
                    lr=self.matrix_lr if self.matrix_lr is not None else 0.015,
                    momentum=self.momentum if self.momentum is not None else 0.95,
                    weight_decay=self.weight_decay,
                )
            )
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((decayed, self.weight_decay), (plain, 0.0))
            if parameters
        ]
        if groups:
            parts.append(torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True))
        return Optimizer(parts, dict(network.named_parameters()))


def _groups(network: nn.Module, *, muon: bool) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Split the trained parameters into Muon's matrices, AdamW's decayed and AdamW's undecayed ones.

    Embeddings and the output layer stay with AdamW under Muon: their rows are looked up or scored one by one, so
    the spectral norm that Muon controls is not the one that matters there (Jordan et al. 2024).
    """
    head = getattr(network, "get_output_embeddings", lambda: None)()
    looked_up = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    if head is not None:
        looked_up.add(id(head.weight))
    matrices, decayed, plain = [], [], []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif muon and id(parameter) not in looked_up:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    return matrices, decayed, plain


_REMEMBERED: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    StackedMuon: {"momentum_buffer"},
}
"""What each optimizer keeps for a parameter: another one's moments cannot be continued."""


_NAMES: dict[type[torch.optim.Optimizer], str] = {torch.optim.AdamW: "adamw", StackedMuon: "muon"}
"""Names of the optimizers in the journal."""


class Optimizer:
    """One or more torch optimizers that act as one and whose state is known by the parameters' names."""

    def __init__(self, parts: list[torch.optim.Optimizer], parameters: dict[str, nn.Parameter]) -> None:
        self.parts = parts
        self._parameters = parameters
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    def set_lr(self, multiplier: float) -> dict[str, float]:
        """Set every group to `multiplier` times its peak; returns the rate of each optimizer by its name."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
        return {_NAMES[type(part)]: float(part.param_groups[0]["lr"]) for part in self.parts}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """The gradient of every parameter that has one."""
        return [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the optimizers remember, as "parameter/quantity"."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            for part in self.parts:
                for quantity, value in part.state.get(parameter, {}).items():
                    tensors[f"{name}/{quantity}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave. Raises ValueError on a quantity of an unknown parameter."""
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for part in self.parts:
            part.state.clear()
        for key, tensor in tensors.items():
            name, _, quantity = key.rpartition("/")
            if name not in self._parameters:
                raise ValueError(f"the optimizer state {key} belongs to no parameter of this network")
            parameter = self._parameters[name]
            part = owner[id(parameter)]
            if quantity not in _REMEMBERED[type(part)]:
                raise ValueError(f"{type(part).__name__} has no {quantity}, which the checkpoint has for {name}")
            if tensor.shape == parameter.shape:
                # In the parameter's own memory layout (channels last, say): fused kernels walk both by address.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            part.state[parameter][quantity] = tensor.to(parameter.device)
