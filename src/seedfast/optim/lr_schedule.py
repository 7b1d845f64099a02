"""Learning-rate schedules: pure functions of the step, and the one schedule that has a memory (plateau)."""

import math
from dataclasses import dataclass
from typing import Literal

from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves: a linear warm-up to the peak, then one of the field's shapes."""

    shape: Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd", "step", "plateau"] = "cosine"
    """`wsd` is warm-up-stable-decay (Hu et al. 2024, MiniCPM); `step` lowers the rate at even intervals, `plateau` when
    validation stalls."""
    warmup: int = 0
    """Steps of linear warm-up."""
    final: float | None = None
    """For cosine, linear and wsd: the rate at the end as a fraction of the peak (default 0)."""
    decay: float | None = None
    """For wsd: the fraction of the run, at its end, in which the rate falls linearly (default 0.2)."""
    patience: int | None = None
    """For plateau: how many validations without improvement are borne before the rate falls (default 3)."""
    every: int | None = None
    """For step: after how many steps the rate falls (default: after each third of the run)."""
    shrink: float | None = None
    """For plateau and step: what the rate is then multiplied by (default 0.5)."""

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise UserError(f"schedule.warmup counts steps, so it cannot be {self.warmup}.")
        for key, shapes, lowest, highest in (
            ("final", ("cosine", "linear", "wsd"), 0, 1),
            ("decay", ("wsd",), 0, 1),
            ("patience", ("plateau",), 0, math.inf),
            ("every", ("step",), 1, math.inf),
            ("shrink", ("plateau", "step"), 0, 1),
        ):
            value = getattr(self, key)
            if value is None:
                continue
            if self.shape not in shapes:
                raise UserError(
                    f"schedule.{key} has no meaning for the shape '{self.shape}' (it belongs to {', '.join(shapes)}); "
                    "leave it out or choose such a shape."
                )
            if not lowest <= value <= highest:
                raise UserError(f"schedule.{key} must lie between {lowest} and {highest}, not {value}.")

    @property
    def shrinking(self) -> float:
        """What the rate is multiplied by when it falls."""
        return 0.5 if self.shrink is None else self.shrink

    def lr_multiplier(self, step: int, steps: int) -> float:
        """The learning rate of update `step` (0 … steps-1) of a run of `steps`, as a fraction of the peak.

        Plateau's own factor comes on top (`Plateau.scale`).
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        final = self.final if self.final is not None else 0.0
        progress = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        match self.shape:
            case "cosine":
                return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return 1 - (1 - final) * progress
            case "inverse-sqrt":
                # Vaswani et al. 2017, equation 3, scaled so that the peak is 1 at the end of the warm-up.
                return math.sqrt(max(1, self.warmup) / max(1, step))
            case "wsd":
                decay = self.decay if self.decay is not None else 0.2
                return 1 - (1 - final) * max(0.0, (progress - (1 - decay)) / decay) if decay else 1.0
            case "step":
                every = self.every if self.every is not None else max(1, -(-(steps - self.warmup) // 3))
                return self.shrinking ** ((step - self.warmup) // every)
            case "constant" | "plateau":
                return 1.0


@dataclass(kw_only=True)
class Plateau:
    """The memory of the plateau schedule, stepped by the validation loss and by nothing else."""

    best: float | None = None
    stalled: int = 0
    scale: float = 1.0

    def observe(self, schedule: Schedule, loss: float) -> None:
        """Take in a validation loss; one that is not finite says nothing about progress and is passed over."""
        if schedule.shape != "plateau" or not math.isfinite(loss):
            return
        if self.best is None or loss < self.best:
            self.best, self.stalled = loss, 0
            return
        self.stalled += 1
        if self.stalled > (schedule.patience if schedule.patience is not None else 3):
            self.scale *= schedule.shrinking
            self.stalled = 0
