"""The [MASK] bias: a constant added to the logit of [MASK] where it is an answer, in the loss and in the sampler alike.

With one symbol for "unknown" and "wrong", a network learns to avoid it. A bias makes it answer so more often; an
adaptive bias is part of the family's state, hence of every checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from seedfast.families.generator import State
from seedfast.families.text.proofreading.corruption import Symbols
from seedfast.options import Between, Example, MoreThan, OnlyWith, check

_MEMORY = 0.99
_ADAPTIVE = ("unmask-rate", "mask-probability")


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The bias of the logit of [MASK], in the version `mask`."""

    kind: Annotated[
        Literal["none", "fixed", "unmask-rate", "mask-probability"],
        Example("fixed", **{"run.objective.version": "mask"}),
    ] = "none"
    """`unmask-rate` raises it while more than the `target` of the gaps are attempted; `mask-probability` raises it
    while the probability of [MASK] at gaps is below the `target`."""
    initial: Annotated[
        float | None, OnlyWith(kind=("fixed", *_ADAPTIVE)), Example(1.0, **{"run.objective.version": "mask"})
    ] = None
    """The value of a fixed bias, or the first value of an adaptive one, in nats (default 3.5)."""
    target: Annotated[
        float | None,
        Between(0, 1, open_low=True),
        OnlyWith(kind=_ADAPTIVE),
        Example(0.3, **{"run.objective.version": "mask"}),
    ] = None
    """The target of an adaptive bias (default: 0.15 of the gaps attempted; a probability of 0.5)."""
    strength: Annotated[
        float | None, MoreThan(0), OnlyWith(kind=_ADAPTIVE), Example(0.1, **{"run.objective.version": "mask"})
    ] = None
    """The change of an adaptive bias per step for a deviation of 1 (default 0.01)."""

    def __post_init__(self) -> None:
        check(self, "objective.bias.")

    @property
    def adapts(self) -> bool:
        """Whether it changes during training."""
        return self.kind in _ADAPTIVE

    def initial_state(self) -> State:
        """The bias before the first step, and for an adaptive one the moving average that it follows."""
        if self.kind == "none":
            return {}
        state = {"mask_bias": torch.tensor(3.5 if self.initial is None else self.initial)}
        if self.adapts:
            # The average starts at the value that changes nothing.
            state["mask_average"] = torch.tensor(1.0 if self.kind == "unmask-rate" else self._target)
        return state

    def adapt(self, state: State, diagnostics: Mapping[str, Tensor]) -> State:
        """The bias after a step in which [MASK] had this mean probability at gaps (unchanged if there were none)."""
        if not self.adapts or "mask_probability" not in diagnostics:
            return state
        probability, target = diagnostics["mask_probability"].double(), self._target
        measured = (1 - probability) / target if self.kind == "unmask-rate" else probability
        average = _MEMORY * state["mask_average"] + ((1 - _MEMORY) * measured).float()
        deviation = average - 1 if self.kind == "unmask-rate" else target - average
        strength = 0.01 if self.strength is None else self.strength
        adapted = {"mask_bias": state["mask_bias"] + strength * deviation, "mask_average": average}
        return {name: torch.where(probability.isnan(), state[name], new) for name, new in adapted.items()}

    @property
    def _target(self) -> float:
        if self.target is not None:
            return self.target
        return 0.15 if self.kind == "unmask-rate" else 0.5


def answer_logits(logits_BLV: Tensor, state: State, symbols: Symbols) -> Tensor:
    """The logits of all answers, [B, L, answers], with the bias of [MASK] where it is one."""
    logits_BLV = logits_BLV[..., : symbols.answers]
    if "mask_bias" not in state:
        return logits_BLV
    is_mask_V = torch.arange(symbols.answers, device=logits_BLV.device) == symbols.mask
    return logits_BLV + state["mask_bias"] * is_mask_V
