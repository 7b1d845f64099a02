"""Learning-rate schedules: pure functions of the step, except plateau, which depends on the validation losses."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from seedfast.options import AtLeast, Between, Example, Formerly, OnlyWith, check


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to the peak learning rate, then one of the common decay shapes."""

    shape: Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd", "step", "plateau"] = "cosine"
    """`wsd` is warm-up-stable-decay (Hu et al. 2024, MiniCPM); `step` lowers the rate at even intervals, `plateau` when
    the validation loss stops improving."""
    warmup: Annotated[int, AtLeast(0)] = 0
    """Steps of linear warm-up."""
    min_lr_factor: Annotated[
        float | None, Between(0, 1), OnlyWith(shape=("cosine", "linear", "wsd")), Formerly("final"), Example(0.5)
    ] = None
    """The last learning rate as a fraction of the peak (default 0)."""
    decay: Annotated[float | None, Between(0, 1), OnlyWith(shape="wsd"), Example(1.0)] = None
    """The fraction of the steps after warm-up in which the rate decays (default 0.2)."""
    patience: Annotated[
        int | None,
        AtLeast(0),
        OnlyWith(shape="plateau"),
        Example(1, patience=0, **{"run.optimizer.lr": 0.5, "run.eval_every": 1, "run.steps": 9}),
    ] = None
    """Validations without improvement before the learning rate is reduced (default 3)."""
    step_size: Annotated[int | None, AtLeast(1), OnlyWith(shape="step"), Formerly("every"), Example(2)] = None
    """Steps between two reductions of the rate (default: a third of the steps after warm-up)."""
    gamma: Annotated[
        float | None, Between(0, 1), OnlyWith(shape=("plateau", "step")), Formerly("shrink"), Example(0.3, shape="step")
    ] = None
    """The factor of each reduction (default 0.5)."""

    def __post_init__(self) -> None:
        check(self, "schedule.")

    @property
    def reduction(self) -> float:
        """The factor of each reduction: `gamma` or its default."""
        return 0.5 if self.gamma is None else self.gamma

    def lr_multiplier(self, step: int, steps: int) -> float:
        """The learning rate of update `step` (0 … steps-1) of a run of `steps`, as a fraction of the peak.

        The plateau schedule multiplies it by `Plateau.scale` in addition.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        last = self.min_lr_factor if self.min_lr_factor is not None else 0.0
        progress = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        match self.shape:
            case "cosine":
                return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return 1 - (1 - last) * progress
            case "inverse-sqrt":
                # Vaswani et al. 2017, equation 3, scaled so that the peak is 1 at the end of the warm-up.
                return math.sqrt(max(1, self.warmup) / max(1, step))
            case "wsd":
                decay = self.decay if self.decay is not None else 0.2
                return 1 - (1 - last) * max(0.0, (progress - (1 - decay)) / decay) if decay else 1.0
            case "step":
                size = self.step_size if self.step_size is not None else max(1, -(-(steps - self.warmup) // 3))
                return self.reduction ** ((step - self.warmup) // size)
            case "constant" | "plateau":
                return 1.0


@dataclass(kw_only=True)
class Plateau:
    """The state of the plateau schedule, which changes with the validation losses alone.

    best: lowest validation loss. stalled: validations since then. scale: product of all reductions.
    """

    best: float | None = None
    stalled: int = 0
    scale: float = 1.0

    def observe(self, schedule: Schedule, loss: float) -> None:
        """Update the state after a validation. A loss that is not finite is ignored."""
        if schedule.shape != "plateau" or not math.isfinite(loss):
            return
        if self.best is None or loss < self.best:
            self.best, self.stalled = loss, 0
            return
        self.stalled += 1
        if self.stalled > (schedule.patience if schedule.patience is not None else 3):
            self.scale *= schedule.reduction
            self.stalled = 0
