"""The [MASK] bias: what is added to the logit of [MASK] where it is an answer, in the loss and in the sampler alike.

With one symbol for "unknown" and "wrong", a network learns to avoid it. A bias makes it say so more often; an adaptive
one is part of the family's state, hence of every checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from seedfast.errors import UserError
from seedfast.families.family import State

_MEMORY = 0.99


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The bias of [MASK]'s logit, in the version `mask`."""

    kind: Literal["none", "fixed", "unmask-rate", "mask-probability"] = "none"
    """`unmask-rate` raises it while more than the `target` of the gaps are attempted; `mask-probability` raises it
    while the probability of [MASK] at gaps is below the `target`."""
    initial: float | None = None
    """Its value, or where an adaptive one begins, in nats (default 3.5)."""
    target: float | None = None
    """Of an adaptive bias (default: 0.15 of the gaps attempted; a probability of 0.5)."""
    strength: float | None = None
    """How far one step moves an adaptive bias for a deviation of 1 (default 0.01)."""

    def __post_init__(self) -> None:
        for key, kinds in (
            ("initial", ("fixed", "unmask-rate", "mask-probability")),
            ("target", ("unmask-rate", "mask-probability")),
            ("strength", ("unmask-rate", "mask-probability")),
        ):
            if getattr(self, key) is not None and self.kind not in kinds:
                raise UserError(
                    f"objective.bias.{key} has no meaning for the kind '{self.kind}' (it belongs to "
                    f"{', '.join(kinds)}); leave it out or choose such a kind."
                )
        if self.target is not None and not 0 < self.target <= 1:
            raise UserError(f"objective.bias.target must lie in (0, 1], not {self.target}.")
        if self.strength is not None and self.strength <= 0:
            raise UserError(f"objective.bias.strength must be positive, not {self.strength}.")

    @property
    def adapts(self) -> bool:
        """Whether it moves during training."""
        return self.kind in ("unmask-rate", "mask-probability")

    def initial_state(self) -> State:
        """The bias before the first step, and the average that an adaptive one follows."""
        if self.kind == "none":
            return {}
        state = {"mask_bias": torch.tensor(3.5 if self.initial is None else self.initial)}
        if self.adapts:
            # The average begins where nothing has to change.
            state["mask_average"] = torch.tensor(1.0 if self.kind == "unmask-rate" else self._target)
        return state

    def adapt(self, state: State, diagnostics: Mapping[str, float]) -> State:
        """The bias after a step in which [MASK] had this mean probability at gaps (unchanged if there were none)."""
        if not self.adapts or "mask_probability" not in diagnostics:
            return state
        probability, target = diagnostics["mask_probability"], self._target
        seen = (1 - probability) / target if self.kind == "unmask-rate" else probability
        average = _MEMORY * state["mask_average"] + (1 - _MEMORY) * seen
        deviation = average - 1 if self.kind == "unmask-rate" else target - average
        strength = 0.01 if self.strength is None else self.strength
        return {"mask_bias": state["mask_bias"] + strength * deviation, "mask_average": average}

    @property
    def _target(self) -> float:
        if self.target is not None:
            return self.target
        return 0.15 if self.kind == "unmask-rate" else 0.5
