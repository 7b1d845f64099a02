"""Samplers: pure functions over a denoiser and a grid, which yield x after each step.

Each asks the denoiser for x0 and derives ε from it, so whatever was done to x0 (guidance, thresholding) holds for both.
They take any levels (a, s), so one function serves variance-preserving and exploding diffusion and flow matching.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.grids import Grid
from seedfast.diffusion.levels import Level, eps_of, exploding

Denoise = Callable[[Tensor, Level], Tensor]
"""(x, level) → the expected x0."""

Noise = Callable[[int], Tensor]
"""Step → standard normal noise of x's shape."""


def step_variance(now: Level, then: Level) -> Tensor:
    """The variance of x at `now` given x at the cleaner level `then`: β_t between neighbours of a table."""
    return now.s.square() - (now.a / then.a * then.s).square()


def posterior_variance(now: Level, then: Level) -> Tensor:
    """The variance of x at `then` given x at `now` and x0: β̃_t (Ho et al. 2020, equation 7)."""
    return step_variance(now, then) * (then.s / now.s).square()


def ddpm(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, *, variance: Literal["small", "large"] = "small"
) -> Iterator[Tensor]:
    """Ancestral sampling: x' ~ q(x' | x, x0) (Ho et al. 2020, algorithm 2), on any grid.

    variance: β̃ ("small", the posterior's own) or β ("large", right where the data are noise themselves).
    """
    for step, (now, then) in enumerate(pairwise(grid)):
        x0 = denoise(x, now)
        between = step_variance(now, then)
        mean = (now.a / then.a * (then.s / now.s).square()) * x + (then.a * between / now.s.square()) * x0
        x = mean
        if then.s > 0:
            x = mean + (between if variance == "large" else posterior_variance(now, then)).sqrt() * noise(step)
        yield x


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, *, eta: float = 0.0) -> Iterator[Tensor]:
    """x' = a'·x0 + √(s'² - σ²)·ε + σ·z with σ = η √β̃ (Song et al. 2021, equation 12).

    η = 0 draws no noise; η = 1 is DDPM with the small variance.
    """
    for step, (now, then) in enumerate(pairwise(grid)):
        x0 = denoise(x, now)
        variance = eta**2 * posterior_variance(now, then)
        x = then.a * x0 + (then.s.square() - variance).clamp(min=0).sqrt() * eps_of(x, x0, now)
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
    """Heun's method for dx = x0 da + ε ds: the slopes at both ends of a step count half each. Order 2; two evaluations.

    The second look, where DDIM's step ends, changes what x0 is; with it x' moves by (a's - as') / 2s' of the change.
    On exploding levels that is the step in σ (Karras et al. 2022, algorithm 1), on the straight path the step in t, and
    on variance-preserving levels the step along their circle, a bounded one however large σ = s/a: a step in σ from
    almost no signal would trust its end for all of its way. A step that ends without noise is Euler's.
    churn: by which part of σ noise is added before each step (γ of their algorithm 2), for exploding levels only.
    """
    for step, (now, then) in enumerate(pairwise(grid)):
        if churn:
            assert noise is not None, "churn needs noise"
            more = exploding(now.s * (1 + churn))
            x = x + (more.s.square() - now.s.square()).sqrt() * noise(step)
            now = more
        x0 = denoise(x, now)
        x = then.a * x0 + then.s * eps_of(x, x0, now)
        if then.s > 0:
            x = x + (then.a * now.s - now.a * then.s) / (2 * then.s) * (denoise(x, then) - x0)
        yield x


def dpm_solver_2m(denoise: Denoise, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): order 2 with one evaluation a step.

    x0 is extrapolated linearly in λ = log(a/s) from the step before; not in the first step, nor where λ is infinite.
    """
    before: tuple[Tensor, Tensor] | None = None  # the last x0 and the last step in λ
    for now, then in pairwise(grid):
        x0 = denoise(x, now)
        h = (now.gamma - then.gamma) / 2
        ahead = x0
        if before is not None and torch.isfinite(h) and torch.isfinite(before[1]):
            ahead = x0 + h / (2 * before[1]) * (x0 - before[0])
        before = x0, h
        x = _straight(x, ahead, now, then)
        yield x


def dpm_solver_2s(denoise: Denoise, x: Tensor, grid: Grid) -> Iterator[Tensor]:
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1): order 2, by pairs of steps that remember nothing before them.

    The first step of a pair looks ahead; the second goes the way of both anew, with x0 extrapolated linearly in
    λ = log(a/s) to its middle. Where λ is infinite, and in a last step without a partner, it is DDIM's step.
    """
    for step, (now, then) in enumerate(pairwise(grid)):
        x0 = denoise(x, now)
        if step % 2 == 0:
            start, first, first_x0 = x, now, x0
            x = _straight(x, x0, now, then)
        else:
            h, h_first = (first.gamma - then.gamma) / 2, (first.gamma - now.gamma) / 2
            if torch.isfinite(h):
                x = _straight(start, first_x0 + h / (2 * h_first) * (x0 - first_x0), first, then)
            else:
                x = _straight(x, x0, now, then)
        yield x


def _straight(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """From `now` to `then` as if x0 stayed the same: x' = (s'/s)·x + (a' - a·s'/s)·x0."""
    ratio = then.s / now.s
    return ratio * x + (then.a - now.a * ratio) * x0
