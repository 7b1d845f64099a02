"""The noise process of an image model: the noise levels of training, the time input of the network, sampling grids."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Tensor

from seedfast.diffusion import schedules
from seedfast.diffusion.grids import Grid, Spacing, continuous_grid, even_times, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.levels import NoiseLevel, flow, variance_exploding
from seedfast.diffusion.parameterisation import Prediction, check_recoverable
from seedfast.diffusion.schedules import DiscreteSchedule
from seedfast.errors import UserError
from seedfast.options import Between, Example, Formerly, MoreThan, OnlyWith, check

Schedule = Literal["linear", "cosine", "quadratic", "sigmoid", "flow", "edm"]
DISCRETE = ("linear", "cosine", "quadratic", "sigmoid")
"""The schedules over T discrete timesteps; flow and edm have continuous times."""
_BETAS = ("linear", "quadratic", "sigmoid")

_SIGMA_MIN, _SIGMA_MAX = 0.002, 80.0  # of EDM's sampling (Karras et al. 2022, table 1)
_LOG_MEAN, _LOG_STD = -1.2, 1.2  # ln σ of EDM's training

_MAX_TERMINAL_SIGNAL = 0.1
"""Largest √ᾱ_T accepted at the last timestep; standard schedules stay below 0.03."""


@dataclass(frozen=True, kw_only=True)
class NoiseProcess:
    """The noise schedule and the network's prediction target."""

    schedule: Schedule = "cosine"
    """linear, cosine, quadratic, sigmoid: variance preserving, with discrete timesteps. flow: the straight path. edm:
    variance exploding."""
    prediction: Prediction = "v"
    """The network's output: eps, x0, v, the velocity of the straight path (flow), or EDM's preconditioned x0."""
    timesteps: Annotated[
        int | None,
        Between(2, 1_000_000),
        OnlyWith(schedule=DISCRETE),
        Formerly("times"),
        Example(50, schedule="cosine"),
    ] = None
    """T of the discrete schedules (default 1000)."""
    beta_start: Annotated[float | None, OnlyWith(schedule=_BETAS), Example(1e-3)] = None
    """First β of the linear, quadratic and sigmoid schedules (default 1e-4)."""
    beta_end: Annotated[float | None, OnlyWith(schedule=_BETAS), Example(0.1)] = None
    """Last β of the linear, quadratic and sigmoid schedules (default 0.02)."""
    zero_terminal_snr: Annotated[bool, OnlyWith(schedule=DISCRETE)] = False
    """Rescale a discrete schedule so that its last timestep has no signal (Lin et al. 2024)."""
    sigma_data: Annotated[float | None, MoreThan(0), OnlyWith(prediction="edm"), Formerly("data_std"), Example(0.9)] = (
        None
    )
    """For the prediction edm: the standard deviation of pixels in [-1, 1] (default 0.5)."""

    def __post_init__(self) -> None:
        check(self, "objective.process.")
        start, end = self._beta_range
        if not 0 < start < end < 1:
            raise UserError(
                "objective.process.beta_start and beta_end must be increasing numbers between 0 and 1, "
                f"not {start} and {end}."
            )
        if self.schedule == "edm" and self.prediction != "edm":
            raise UserError(
                f"objective.process.schedule edm adds noise up to σ = {_SIGMA_MAX:g}, so network input and output "
                f"have to be scaled: use the prediction edm, not {self.prediction}."
            )
        check_recoverable(self.prediction, self.noisiest)
        if self.is_discrete and (signal := float(self.noisiest.a)) > _MAX_TERMINAL_SIGNAL:
            raise UserError(
                f"The last of {len(self.table)} timesteps still holds {signal:.0%} of the image, but sampling starts "
                "from noise alone: use more objective.process.timesteps, a larger beta_end, or zero_terminal_snr."
            )

    @property
    def is_discrete(self) -> bool:
        """Whether the schedule has discrete timesteps."""
        return self.schedule in DISCRETE

    @property
    def _beta_range(self) -> tuple[float, float]:
        return 1e-4 if self.beta_start is None else self.beta_start, 0.02 if self.beta_end is None else self.beta_end

    @property
    def scaling_std(self) -> float:
        """The σ_data of the network's preconditioning: 1 without it, which leaves variance-preserving inputs as is."""
        return 1.0 if self.prediction != "edm" else 0.5 if self.sigma_data is None else self.sigma_data

    @property
    def noisiest(self) -> NoiseLevel:
        """The level at which sampling starts."""
        match self.schedule:
            case "flow":
                return flow(torch.ones((), dtype=torch.float64))
            case "edm":
                return variance_exploding(torch.tensor(_SIGMA_MAX, dtype=torch.float64))
        return self.table.at(torch.tensor(len(self.table) - 1))

    @cached_property
    def table(self) -> DiscreteSchedule:
        """The levels of a discrete schedule."""
        kind, (start, end) = self.schedule, self._beta_range
        assert kind != "flow", "a path of continuous times has no table"
        assert kind != "edm", "σ is continuous and has no table"
        return schedules.table(kind, self.timesteps or 1000, start=start, end=end, zero_terminal=self.zero_terminal_snr)

    def level(self, u_B: Tensor) -> NoiseLevel:
        """The training levels at quantiles u in [0, 1), float64: uniform times, or EDM's normal ln σ."""
        match self.schedule:
            case "flow":
                return flow(1 - u_B)  # in (0, 1]: every example has some noise
            case "edm":
                return variance_exploding((_LOG_MEAN + _LOG_STD * torch.special.ndtri(u_B.clamp(min=2.0**-53))).exp())
        return self.table.at((u_B * len(self.table)).long())

    def bin_centres(self, bins: int) -> NoiseLevel:
        """Centres of `bins` equiprobable noise-level bins (at most one for each timestep)."""
        if self.is_discrete:
            bins = min(bins, len(self.table))
        return self.level((torch.arange(bins, dtype=torch.float64) + 0.5) / bins)

    def t_cond(self, level: NoiseLevel) -> Tensor:
        """The network's time input at a level, which ranges over [0, 1]."""
        match self.schedule:
            case "flow":
                return level.time
            case "edm":
                return (level.time.log() - math.log(_SIGMA_MIN)) / math.log(_SIGMA_MAX / _SIGMA_MIN)
        return level.time / len(self.table)

    def strength(self, level: NoiseLevel) -> Tensor:
        """A level as a part of the way from no noise (0) to the noisiest level (1)."""
        return self.t_cond(level).clamp(0, 1)

    def grid(self, steps: int, spacing: Spacing | None) -> Grid:
        """The sampling grid of N steps. Raises UserError for a number of steps that is not possible."""
        if not self.is_discrete:
            if spacing is not None:
                raise UserError(f"spacing has no effect with the schedule {self.schedule}, which is continuous.")
            if steps < 1:
                raise UserError(f"steps must be at least 1, not {steps}.")
            if self.schedule == "flow":
                return continuous_grid(flow, even_times(steps))
            return continuous_grid(variance_exploding, karras_sigmas(steps, low=_SIGMA_MIN, high=_SIGMA_MAX))
        return table_grid(self.table, timesteps(len(self.table), steps, spacing or "trailing"))
