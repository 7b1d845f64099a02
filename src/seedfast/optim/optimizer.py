"""The optimizers: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from seedfast.models.network import Network
from seedfast.optim.adamw import AdamW
from seedfast.optim.muon import StackedMuon
from seedfast.optim.update_rule import Number, UpdateRule
from seedfast.options import AtLeast, Between, Example, Formerly, MoreThan, OnlyWith, check

_MATRIX_LR_FACTOR = 1.5
_EARLIER_MATRIX_LR = 0.015  # the default when `matrix_lr` was an absolute rate


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights are updated."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the momentum of hidden matrices and filters (Jordan et al. 2024) and uses AdamW for all
    other parameters."""
    lr: Annotated[float, MoreThan(0)] = 1e-3
    """Peak learning rate of every parameter; with `kind muon` that of AdamW's, and the matrices' is a multiple."""
    betas: Annotated[tuple[float, float], Between(0, 1, open_high=True), Example((0.5, 0.6))] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    eps: Annotated[float, MoreThan(0)] = 1e-8
    """AdamW's constant against division by zero."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    """Decoupled weight decay of matrices and embeddings; gains and biases have none."""
    matrix_lr_factor: Annotated[
        float | tuple[float, float] | None,
        MoreThan(0),
        OnlyWith(kind="muon"),
        Formerly("matrix_lr", note="a multiple of --optimizer.lr"),
        Example(5.0),
    ] = None
    """Peak learning rate of Muon's matrices as a multiple of `lr` (default 1.5). Two numbers stand for the multiple
    that makes it the first one when `lr` is the second one."""
    momentum: Annotated[float | None, Between(0, 1, open_high=True), OnlyWith(kind="muon"), Example(0.5)] = None
    """Nesterov momentum of Muon (default 0.95)."""
    iterations: Annotated[int | None, AtLeast(1), OnlyWith(kind="muon"), Example(1)] = None
    """Newton-Schulz iterations of Muon (default 5). Each takes the same time; fewer leave small singular values
    smaller."""
    form: Annotated[Literal["matrix", "gram"] | None, OnlyWith(kind="muon"), Example("gram")] = None
    """What Muon iterates on: the matrices (default), or in float32 on the Gram matrices of those that are longer than
    3/2 of their width (`gram`). The same up to rounding; on a CPU, an MLP's take 70 % of the time."""

    def __post_init__(self) -> None:
        check(self, "optimizer.")

    @property
    def matrix_lr(self) -> float:
        """Peak learning rate of Muon's matrices."""
        factor = _MATRIX_LR_FACTOR if self.matrix_lr_factor is None else self.matrix_lr_factor
        if isinstance(factor, tuple):
            rate, at_lr = factor
            return rate * (self.lr / at_lr)  # in this order, so that it is exactly `rate` at that lr
        return self.lr * factor

    def migrated(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a stored configuration, with an earlier version's absolute `matrix_lr` as a multiple of `lr`.

        The rate of the matrices stays the same to the last bit.
        """
        if "matrix_lr" not in values:
            return values
        kept = {key: value for key, value in values.items() if key != "matrix_lr"}
        rate, is_muon = values["matrix_lr"], kept.get("kind", self.kind) == "muon"
        if rate is None and not is_muon:
            return kept
        try:
            rate = _EARLIER_MATRIX_LR if rate is None else float(rate)
            factor = _factor(rate, float(kept.get("lr", self.lr)))
        except (TypeError, ValueError, ZeroDivisionError):  # no numbers: named when the values are read
            factor = rate
        return {**kept, "matrix_lr_factor": factor if is_muon else rate}

    def build(self, network: nn.Module) -> "Optimizer":
        """The optimizer of a network, with the usual parameter groups."""
        groups = _parameter_groups(network, muon=self.kind == "muon")
        parts: list[UpdateRule] = []
        if groups.matrices:
            parts.append(
                StackedMuon(
                    groups.matrices,
                    lr=self.matrix_lr,
                    momentum=self.momentum if self.momentum is not None else 0.95,
                    weight_decay=self.weight_decay,
                    ns_steps=self.iterations if self.iterations is not None else 5,
                    gram=self.form == "gram",
                )
            )
        adamw = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((groups.decayed, self.weight_decay), (groups.undecayed, 0.0))
            if parameters
        ]
        if adamw:
            parts.append(AdamW(adamw, lr=self.lr, betas=self.betas, eps=self.eps))
        return Optimizer(parts, dict(network.named_parameters()))


def _factor(rate: float, lr: float) -> float | tuple[float, float] | None:
    """The multiple of `lr` that is exactly `rate`: the default, one number, or where rounding allows none, the pair."""
    if lr * _MATRIX_LR_FACTOR == rate:
        return None
    near = rate / lr
    candidates = (near, math.nextafter(near, math.inf), math.nextafter(near, 0.0))
    return next((factor for factor in candidates if lr * factor == rate), (rate, lr))


@dataclass(frozen=True)
class _ParameterGroups:
    """The trained parameters: Muon's matrices, and AdamW's with and without weight decay."""

    matrices: list[nn.Parameter]
    decayed: list[nn.Parameter]
    undecayed: list[nn.Parameter]


def _parameter_groups(network: nn.Module, *, muon: bool) -> _ParameterGroups:
    """Embeddings and the output layer stay with AdamW under Muon.

    Their rows are looked up or scored one by one, so the spectral norm that Muon controls does not matter there
    (Jordan et al. 2024).
    """
    by_rows = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    if isinstance(network, Network) and network.output_layer is not None:
        by_rows.add(id(network.output_layer.weight))
    groups = _ParameterGroups([], [], [])
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups.undecayed.append(parameter)
        elif muon and id(parameter) not in by_rows:
            groups.matrices.append(parameter)
        else:
            groups.decayed.append(parameter)
    return groups


class Optimizer:
    """One or two update rules with the interface of one; state tensors are named after the parameters."""

    def __init__(self, parts: list[UpdateRule], parameters: dict[str, nn.Parameter]) -> None:
        self.parts = parts
        self._parameters = parameters
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are updated."""
        return [parameter for parameter in self._parameters.values() if parameter.requires_grad]

    def set_lr(self, multiplier: float) -> dict[str, float]:
        """Set the learning rate of every group to `multiplier` times its peak; returns each optimizer's by name."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
        return {part.name: float(part.param_groups[0]["lr"]) for part in self.parts}

    @property
    def rates(self) -> list[float]:
        """The learning rate of every group, as `set_lr` has set it."""
        return [float(group["lr"]) for part in self.parts for group in part.param_groups]

    def read_rates(self, rates: Sequence[Number]) -> None:
        """Read the rates of all groups from these: the same numbers, which may be where the device reads them."""
        groups = [group for part in self.parts for group in part.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def step(self, finite: Tensor) -> None:
        """One update of all parameters; none if `finite`, a bool on the device, is false."""
        for part in self.parts:
            part.step(finite)

    def gradients(self) -> list[Tensor]:
        """The gradient of every parameter that has one."""
        return [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """All state tensors, named "parameter/quantity"."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            for part in self.parts:
                for quantity, value in part.state.get(parameter, {}).items():
                    tensors[f"{name}/{quantity}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned, except that of parameters which are not trained any more.

        Raises ValueError for an unknown parameter, and for a tensor that belongs to another kind of optimizer.
        """
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for part in self.parts:
            part.state.clear()
        for key, tensor in tensors.items():
            name, _, quantity = key.rpartition("/")
            if name not in self._parameters:
                raise ValueError(f"the optimizer state {key} belongs to no parameter of this network")
            parameter = self._parameters[name]
            if not parameter.requires_grad:
                continue
            part = owner[id(parameter)]
            if quantity not in part.quantities:
                raise ValueError(f"{type(part).__name__} has no {quantity}, which the checkpoint has for {name}")
            if tensor.shape == parameter.shape:
                # In the memory layout of the parameter (channels last, say): fused kernels walk both by address.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            part.state[parameter][quantity] = tensor.to(parameter.device)
