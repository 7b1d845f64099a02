"""An exponential moving average of the weights, with a half-life and a warm-up."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EMA:
    """Which average of the weights is kept beside the raw ones and used for evaluation and sampling."""

    half_life: float = 0.0
    """After how many steps (or samples) a weight counts half; 0 keeps no average."""
    unit: Literal["steps", "samples"] = "steps"
    """What the half-life counts. In samples, a run at another batch size averages over the same data."""
    ramp: float = 0.1
    """Warm-up: the half-life never exceeds this fraction of what has been trained (Karras et al. 2022, EDM)."""

    def __post_init__(self) -> None:
        if self.half_life < 0 or not 0 < self.ramp <= 1:
            raise UserError(
                f"ema.half_life must not be negative (it is {self.half_life}) and ema.ramp must lie in (0, 1] "
                f"(it is {self.ramp})."
            )

    def decay(self, step: int, batch_size: int) -> float:
        """How much of the average update `step` (0, 1, …) keeps: one half every half-life."""
        per_step = batch_size if self.unit == "samples" else 1
        half_life = min(self.half_life, (step + 1) * per_step * self.ramp)
        return float(0.5 ** (per_step / half_life))


class Average:
    """The averaged network: a copy in evaluation mode whose parameters follow the raw ones.

    Buffers are copied as they are, so integer buffers stay exact; only parameters are averaged. Parameters that are not
    trained are shared with the raw network: a copy of them would be the same for ever.
    """

    def __init__(self, network: nn.Module) -> None:
        frozen = {id(parameter): parameter for parameter in network.parameters() if not parameter.requires_grad}
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self.network = copy.deepcopy(network, frozen).eval().requires_grad_(False)
        averaged = dict(self.network.named_parameters())
        self._pairs = _pairs(trained, [(name, averaged[name]) for name, _ in trained])
        self._buffers = _pairs(network.named_buffers(), self.network.named_buffers())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay · average + (1 - decay) · raw, for all parameters in one call."""
        torch._foreach_lerp_(self._pairs[1], self._pairs[0], 1 - decay)
        for raw, own in zip(*self._buffers, strict=True):
            own.copy_(raw)


def _pairs(raw: object, own: object) -> tuple[list[Tensor], list[Tensor]]:
    raws: dict[str, Tensor] = dict(raw)  # type: ignore[call-overload]
    owns: dict[str, Tensor] = dict(own)  # type: ignore[call-overload]
    return [raws[name].detach() for name in owns], [owns[name].detach() for name in owns]
