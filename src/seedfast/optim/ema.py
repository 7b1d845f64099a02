"""An exponential moving average of the weights, with a half-life and a warm-up."""

import copy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from seedfast.optim.shards import local
from seedfast.optim.update_rule import Number
from seedfast.options import AtLeast, Between, Example, check


@dataclass(frozen=True, kw_only=True)
class EMA:
    """The moving average of the weights that is used for evaluation and sampling."""

    half_life: Annotated[float, AtLeast(0), Example(1.0, ramp=1.0)] = 0.0
    """Steps (or samples) after which the contribution of a weight has halved; 0 disables the average."""
    unit: Annotated[Literal["steps", "samples"], Example("samples", half_life=1, ramp=1.0)] = "steps"
    """Unit of the half-life. In samples, a run at another batch size averages over the same data."""
    ramp: Annotated[float, Between(0, 1, open_low=True)] = 0.1
    """Warm-up: the half-life is at most this fraction of the training so far (Karras et al. 2022, EDM)."""

    def __post_init__(self) -> None:
        check(self, "ema.")

    def decay(self, step: int, batch_size: int) -> float:
        """The weight of the old average in update `step` (0, 1, …): one half per half-life."""
        per_step = batch_size if self.unit == "samples" else 1
        half_life = min(self.half_life, (step + 1) * per_step * self.ramp)
        return float(0.5 ** (per_step / half_life))


def copy_of(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the frozen parameters."""
    frozen = {id(parameter): parameter for parameter in network.parameters() if not parameter.requires_grad}
    return copy.deepcopy(network, frozen).eval().requires_grad_(False)


class Average:
    """The averaged network: a copy in evaluation mode whose parameters follow the raw ones.

    Buffers are copied, so integer buffers stay exact; only parameters are averaged. Frozen parameters are shared with
    the raw network.
    """

    def __init__(self, network: nn.Module, copied: nn.Module | None = None) -> None:
        """copied: `copy_of` the network, if both have been cut into shards since."""
        trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.network = copy_of(network) if copied is None else copied
        averaged, copies = dict(self.network.named_parameters()), dict(self.network.named_buffers())
        self._raw = [local(parameter.detach()) for parameter in trained.values()]
        self._averaged = [local(averaged[name].detach()) for name in trained]
        self._buffers = [(buffer.detach(), copies[name].detach()) for name, buffer in network.named_buffers()]

    @torch.no_grad()
    def update(self, decay: Number, finite: Tensor) -> None:
        """average ← decay · average + (1 - decay) · raw, for all parameters in one call.

        finite: bool [], on the device; if it is false, the average stays as it is.
        """
        weight = finite.double() * (1 - decay)
        if isinstance(decay, Tensor):  # three kernels, where a list of weights would be one for each parameter
            moves = torch._foreach_sub(self._raw, self._averaged)
            torch._foreach_mul_(moves, weight.float())
            torch._foreach_add_(self._averaged, moves)
        else:
            torch._foreach_lerp_(self._averaged, self._raw, [weight.to(raw.dtype) for raw in self._raw])
        for buffer, copied in self._buffers:
            copied.copy_(buffer)
