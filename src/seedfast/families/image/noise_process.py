"""The noising process of an image model: which levels training draws, what the network is told, where samplers step."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion import schedules
from seedfast.diffusion.grids import Grid, Spacing, continuous_grid, even_times, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.levels import Level, exploding, flow
from seedfast.diffusion.parameterisation import Prediction, check_recoverable
from seedfast.diffusion.schedules import Table
from seedfast.errors import UserError

Schedule = Literal["linear", "cosine", "quadratic", "sigmoid", "flow", "edm"]
_LOW, _HIGH = 0.002, 80.0  # σ of EDM's sampling (Karras et al. 2022, table 1)
_LOG_MEAN, _LOG_STD = -1.2, 1.2  # ln σ of EDM's training

_REST = 0.1
"""How much of the image a schedule may leave in its noisiest time; the usual ones leave 0.03 at most."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """How noise is added, and what of it a network predicts."""

    schedule: Schedule = "cosine"
    """linear, cosine, quadratic, sigmoid: variance preserving, over discrete times. flow: the straight path. edm:
    variance exploding."""
    prediction: Prediction = "v"
    """What the network answers: eps, x0, v, the velocity of the straight path (flow), or EDM's preconditioned x0."""
    times: int | None = None
    """T of the discrete schedules (default 1000)."""
    beta_start: float | None = None
    """First β of the linear, quadratic and sigmoid schedules (default 1e-4)."""
    beta_end: float | None = None
    """Their last β (default 0.02)."""
    zero_terminal_snr: bool = False
    """Rescale a discrete schedule so that its last time holds no signal (Lin et al. 2024)."""
    data_std: float | None = None
    """For the prediction edm: the standard deviation of pixels in [-1, 1] (default 0.5)."""

    def __post_init__(self) -> None:
        discrete = self.schedule not in ("flow", "edm")
        for key, has_effect, why in (
            ("times", discrete, f"the schedule {self.schedule} has continuous times"),
            ("beta_start", discrete and self.schedule != "cosine", f"the schedule {self.schedule} has no such β"),
            ("beta_end", discrete and self.schedule != "cosine", f"the schedule {self.schedule} has no such β"),
            ("data_std", self.prediction == "edm", f"only the prediction edm is preconditioned, not {self.prediction}"),
        ):
            if getattr(self, key) is not None and not has_effect:
                raise UserError(f"objective.process.{key} has no effect, for {why}: leave it out.")
        if self.times is not None and self.times < 2:
            raise UserError(f"objective.process.times must be at least 2, not {self.times}.")
        start, end = self._betas
        if not 0 < start < end < 1:
            raise UserError(f"The β of a schedule rise between 0 and 1, not from {start} to {end}.")
        if not self.std > 0:
            raise UserError(f"objective.process.data_std must be positive, not {self.data_std}.")
        if self.zero_terminal_snr and not discrete:
            raise UserError(f"The schedule {self.schedule} needs no rescaling to zero terminal SNR: leave it out.")
        if self.schedule == "edm" and self.prediction != "edm":
            raise UserError(
                f"The schedule edm adds noise up to σ = {_HIGH:g}, which a network can only answer with the "
                f"prediction edm, not {self.prediction}: its input and output have to be scaled."
            )
        check_recoverable(self.prediction, self.noisiest)
        if discrete and (left := float(self.noisiest.a)) > _REST:
            raise UserError(
                f"The last of {self.times or 1000} times still holds {left:.0%} of the image, but sampling starts from "
                "noise alone: take more times or a larger beta_end, or say zero_terminal_snr."
            )

    @property
    def _betas(self) -> tuple[float, float]:
        return 1e-4 if self.beta_start is None else self.beta_start, 0.02 if self.beta_end is None else self.beta_end

    @property
    def std(self) -> float:
        """σ_data; 1 where nothing is preconditioned, so that a variance-preserving input is left as it is."""
        return 1.0 if self.prediction != "edm" else 0.5 if self.data_std is None else self.data_std

    @property
    def noisiest(self) -> Level:
        """The level from which sampling starts."""
        match self.schedule:
            case "flow":
                return flow(torch.ones((), dtype=torch.float64))
            case "edm":
                return exploding(torch.tensor(_HIGH, dtype=torch.float64))
        return self.table.at(torch.tensor(len(self.table) - 1))

    @cached_property
    def table(self) -> Table:
        """The levels of a discrete schedule."""
        kind, (start, end) = self.schedule, self._betas
        assert kind != "flow", "a path of continuous times has no table"
        assert kind != "edm", "σ is continuous and has no table"
        return schedules.table(kind, self.times or 1000, start=start, end=end, zero_terminal=self.zero_terminal_snr)

    def level(self, u_B: Tensor) -> Level:
        """The levels that training meets at quantiles u in [0, 1), float64: every time as likely, or EDM's ln σ."""
        match self.schedule:
            case "flow":
                return flow(1 - u_B)  # in (0, 1]: there is something to remove
            case "edm":
                return exploding((_LOG_MEAN + _LOG_STD * torch.special.ndtri(u_B.clamp(min=2.0**-53))).exp())
        return self.table.at((u_B * len(self.table)).long())

    def middles(self, ranges: int) -> Level:
        """The middle levels of ranges that are as likely as each other: of so many, if there are so many times."""
        if self.schedule not in ("flow", "edm"):
            ranges = min(ranges, len(self.table))
        return self.level((torch.arange(ranges, dtype=torch.float64) + 0.5) / ranges)

    def told(self, level: Level) -> Tensor:
        """What the network is told of a level's time: a number that runs over [0, 1]."""
        match self.schedule:
            case "flow":
                return level.time
            case "edm":
                return (level.time.log() - math.log(_LOW)) / math.log(_HIGH / _LOW)
        return level.time / len(self.table)

    def progress(self, level: Level) -> Tensor:
        """Where in [0, 1] a level lies between no noise and the noisiest."""
        return self.told(level).clamp(0, 1)

    def grid(self, steps: int | None, spacing: Spacing | None) -> Grid:
        """The levels that a sampler steps along in N steps (default 50). Raises UserError where they do not exist."""
        if self.schedule in ("flow", "edm"):
            if spacing is not None:
                raise UserError(f"The schedule {self.schedule} has continuous times, so it takes no --spacing.")
            if steps is not None and steps < 1:
                raise UserError(f"steps must be at least 1, not {steps}.")
            if self.schedule == "flow":
                return continuous_grid(flow, even_times(steps or 50))
            return continuous_grid(exploding, karras_sigmas(steps or 50, low=_LOW, high=_HIGH))
        total = len(self.table)
        steps = min(50, total) if steps is None else steps
        return table_grid(self.table, timesteps(total, steps, spacing or "trailing"))
