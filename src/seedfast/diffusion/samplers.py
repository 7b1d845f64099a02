"""Samplers: pure functions of a denoiser and a grid that yield x after each step.

Each sampler evaluates x0 and derives ε from it, so that a change of x0 (guidance, thresholding) changes both. Levels
(a, s) may be of any kind: one function samples variance-preserving and exploding diffusion and flow matching.
A step goes from the level `start` to the cleaner level `end`, two neighbours of the grid.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.grids import Grid
from seedfast.diffusion.levels import NoiseLevel, eps_from_x0, variance_exploding

Denoise = Callable[[Tensor, NoiseLevel], Tensor]
"""(x, level) → the expected x0."""

Noise = Callable[[int], Tensor]
"""Step → standard normal noise of x's shape."""


def step_variance(start: NoiseLevel, end: NoiseLevel) -> Tensor:
    """The variance of x at `start` given x at the cleaner level `end`: β_t between neighbours of a table."""
    return start.s.square() - (start.a / end.a * end.s).square()


def posterior_variance(start: NoiseLevel, end: NoiseLevel) -> Tensor:
    """The variance of x at `end` given x at `start` and x0: β̃_t (Ho et al. 2020, equation 7)."""
    return step_variance(start, end) * (end.s / start.s).square()


def ddpm(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, *, variance: Literal["small", "large"] = "small"
) -> Iterator[Tensor]:
    """Ancestral sampling: x' ~ q(x' | x, x0) (Ho et al. 2020, algorithm 2), on any grid.

    variance: β̃ ("small", that of the posterior) or β ("large", exact if the data are standard normal noise).
    """
    for step, (start, end) in enumerate(pairwise(grid)):
        x0 = denoise(x, start)
        beta = step_variance(start, end)
        mean = (start.a / end.a * (end.s / start.s).square()) * x + (end.a * beta / start.s.square()) * x0
        x = mean
        if end.s > 0:
            x = mean + (beta if variance == "large" else posterior_variance(start, end)).sqrt() * noise(step)
        yield x


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, *, eta: float = 0.0) -> Iterator[Tensor]:
    """x' = a'·x0 + √(s'² - σ²)·ε + σ·z with σ = η √β̃ (Song et al. 2021, equation 12).

    η = 0 draws no noise; η = 1 is DDPM with the small variance.
    """
    for step, (start, end) in enumerate(pairwise(grid)):
        x0 = denoise(x, start)
        variance = eta**2 * posterior_variance(start, end)
        x = end.a * x0 + (end.s.square() - variance).clamp(min=0).sqrt() * eps_from_x0(x, x0, start)
        if variance > 0:
            assert noise is not None, "η > 0 needs noise"
            x = x + variance.sqrt() * noise(step)
        yield x


def euler(denoise: Denoise, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Euler's method for the probability flow d(x/a)/dσ = ε with σ = s/a: the same as DDIM without noise. Order 1."""
    return ddim(denoise, x, grid)


def heun(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, *, churn: float = 0.0
) -> Iterator[Tensor]:
    """Heun's method for dx = x0 da + ε ds: the mean of the slopes at both ends of a step. Order 2, two evaluations.

    The second evaluation, at the end of DDIM's step, changes x0; x' changes by (a's - as') / 2s' times that change.
    On exploding levels this is a step in σ (Karras et al. 2022, algorithm 1), on the straight path a step in t, and on
    variance-preserving levels a step along their circle, which is bounded even where σ = s/a is huge: a step in σ from
    almost no signal would rely on the prediction at its end for its whole length. A step that ends without noise is
    Euler's.
    churn: relative increase of σ by added noise before each step (γ of their algorithm 2), for exploding levels only.
    """
    for step, (start, end) in enumerate(pairwise(grid)):
        if churn:
            assert noise is not None, "churn needs noise"
            raised = variance_exploding(start.s * (1 + churn))
            x = x + (raised.s.square() - start.s.square()).sqrt() * noise(step)
            start = raised
        x0 = denoise(x, start)
        x = end.a * x0 + end.s * eps_from_x0(x, x0, start)
        if end.s > 0:
            x = x + (end.a * start.s - start.a * end.s) / (2 * end.s) * (denoise(x, end) - x0)
        yield x


def dpm_solver_2m(denoise: Denoise, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): order 2 with one evaluation a step.

    x0 is extrapolated linearly in λ = log(a/s) from the step before, except in the first step and where λ is infinite.
    """
    previous: tuple[Tensor, Tensor] | None = None  # x0 of the last step, and its length in λ
    for start, end in pairwise(grid):
        x0 = denoise(x, start)
        h = (start.gamma - end.gamma) / 2
        extrapolated = x0
        if previous is not None and torch.isfinite(h) and torch.isfinite(previous[1]):
            extrapolated = x0 + h / (2 * previous[1]) * (x0 - previous[0])
        previous = x0, h
        x = _constant_x0_step(x, extrapolated, start, end)
        yield x


def dpm_solver_2s(denoise: Denoise, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1): order 2, in pairs of steps; a pair uses no earlier step.

    The first step of a pair is a trial. The second step starts again where the first one started and covers both, with
    x0 extrapolated linearly in λ = log(a/s) to the middle. Where λ is infinite, and in a last step without a partner,
    the step is DDIM's.
    """
    for step, (start, end) in enumerate(pairwise(grid)):
        x0 = denoise(x, start)
        if step % 2 == 0:
            pair_x, pair_start, pair_x0 = x, start, x0
            x = _constant_x0_step(x, x0, start, end)
        else:
            h, h_first = (pair_start.gamma - end.gamma) / 2, (pair_start.gamma - start.gamma) / 2
            if torch.isfinite(h):
                x = _constant_x0_step(pair_x, pair_x0 + h / (2 * h_first) * (x0 - pair_x0), pair_start, end)
            else:
                x = _constant_x0_step(x, x0, start, end)
        yield x


def _constant_x0_step(x: Tensor, x0: Tensor, start: NoiseLevel, end: NoiseLevel) -> Tensor:
    """The exact step for an x0 that is constant between the levels: x' = (s'/s)·x + (a' - a·s'/s)·x0."""
    ratio = end.s / start.s
    return ratio * x + (end.a - start.a * ratio) * x0
