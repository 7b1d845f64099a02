"""What a loss is measured in, and how its diagnostics are read. Without torch: the report reads these values too."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Diagnostics of a validation that are the points of one curve, such as the error at each noise level.

    axis: the quantity on the horizontal axis. points: the diagnostics by name, each with its place on the axis.
    identity: whether a perfect model's values are the places themselves, as those of a calibration are.
    """

    axis: str
    points: Mapping[str, float]
    identity: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The units of an objective's loss and the meaning of its diagnostics.

    loss_unit: "nats" for a likelihood or its bound; otherwise e.g. "squared_error".
    weight_unit: what the weights count, in the plural: "tokens", "images".
    is_bound: whether the loss bounds the negative log-likelihood from above (a NELBO) instead of being equal to it.
    conversions: the loss times this factor, by the name of that unit, e.g. {"bits_per_byte": 0.41}.
    draws: tasks drawn for each validation example if the loss is a random estimate; None if it is exact.
    metrics: diagnostics of every validation by which the best checkpoint may be chosen: 1 if more is better, else -1.
    alarms: diagnostics that validation warns about above a limit: (limit, what it means).
    curves: diagnostics of every validation that the report draws as one curve, by its title.
    """

    loss_unit: str = "nats"
    weight_unit: str = "tokens"
    is_bound: bool = False
    conversions: Mapping[str, float] = field(default_factory=dict)
    draws: int | None = None
    metrics: Mapping[str, int] = field(default_factory=dict)
    alarms: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def per_weight(self) -> str:
        """The name of the loss in records, such as "nats_per_token"."""
        return f"{self.loss_unit}_per_{self.weight_unit.removesuffix('s')}"

    @property
    def has_perplexity(self) -> bool:
        """Whether the loss is the likelihood of tokens itself, so that its exponential is a perplexity."""
        return not self.is_bound and self.loss_unit == "nats" and self.weight_unit == "tokens"

    def perplexity(self, loss: float) -> float:
        """exp of nats per token; infinite above the range of floats, NaN for a measure without perplexity."""
        if not self.has_perplexity:
            return math.nan
        return math.exp(loss) if loss < 700 else math.inf

    def as_json(self) -> dict[str, Any]:
        """The part of a checkpoint's manifest that describes the loss, for readers of the run folder."""
        return {
            "loss_unit": self.loss_unit,
            "weight_unit": self.weight_unit,
            "is_bound": self.is_bound,
            "conversions": dict(self.conversions),
            "curves": {title: asdict(curve) for title, curve in self.curves.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Measure":
        """What `as_json` wrote, also under the names of version 0.1.0."""
        old = {"quantity": "loss_unit", "counts": "weight_unit", "units": "conversions", "profiles": "curves"}
        values = {old.get(name, name): value for name, value in stored.items()}
        curves = {title: Curve(**curve) for title, curve in values.pop("curves", {}).items()}
        return cls(**values, curves=curves)
