"""Identities 16 to 18: samplers on normal data, where every step and the whole way are known in closed form."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid, Spacing, continuous_grid, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.levels import Level, exploding
from seedfast.diffusion.samplers import Noise
from seedfast.diffusion.schedules import Table, table
from seedfast.verify.identities.check import Check

Sampler = Callable[..., Iterator[Tensor]]
"""As `samplers.ddim`."""
STEPS = 1000
MEAN, STD = 0.3, 0.5


def _number(value: float) -> Tensor:
    return torch.full((1,), value, dtype=torch.float64)


def normal_denoiser(x: Tensor, level: Level) -> Tensor:
    """The exact x0 for data N(μ, s0²): the mean of the posterior given x, at any level."""
    variance = level.a.square() * STD**2 + level.s.square()
    return (level.a * STD**2 * x + level.s.square() * MEAN) / variance


def run(sampler: Sampler, grid: Grid, x: float, noise: Noise = lambda step: _number(0.0), **options: Any) -> float:
    """Where the sampler ends from x_T = x, with this noise."""
    *_, final = sampler(normal_denoiser, _number(x), grid, noise, **options)
    return float(final)


def law(sampler: Sampler, grid: Grid, **options: Any) -> tuple[float, float]:
    """Mean and standard deviation of what a linear sampler makes of x_T ~ N(0, 1), from two points and one noise.

    x_T = 0 and 1 without noise give intercept and slope; noise 1 in one step at a time its share of the variance.
    """
    intercept = run(sampler, grid, 0.0, **options)
    variance = (run(sampler, grid, 1.0, **options) - intercept) ** 2
    mean, total = 0.0, 1.0
    if options.get("eta") == 0:
        return intercept, math.sqrt(variance)
    for pair in pairwise(grid):  # each step on its own: as many runs as steps, not their square
        step = list(pair)
        start = run(sampler, step, 0.0, **options)
        slope = run(sampler, step, 1.0, **options) - start
        added = run(sampler, step, 0.0, lambda step: _number(1.0), **options) - start
        mean, total = slope * mean + start, slope**2 * total + added**2
    return mean, math.sqrt(total)


def closed_form(schedule: Table, times_N: Tensor, eta: float) -> tuple[float, float]:
    """The same in closed form (identities, 17): the offset from a·μ and the variance, each step by its factor G."""
    alpha_bars = [float(schedule.alpha_bar_T[t]) for t in times_N] + [1.0]
    offset, variance = -math.sqrt(alpha_bars[0]) * MEAN, 1.0
    for now, then in pairwise(alpha_bars):
        added = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
        whole = now * STD**2 + 1 - now
        factor = (math.sqrt(now * then) * STD**2 + math.sqrt((1 - then - added) * (1 - now))) / whole
        offset, variance = factor * offset, factor**2 * variance + added
    return MEAN + offset, math.sqrt(variance)


def ancestral(ddim: Sampler = samplers.ddim, ddpm: Sampler = samplers.ddpm) -> Check:
    """16. DDIM with η = 1 over the full chain is DDPM's posterior: the same mean coefficients, and σ² = β̃."""
    schedule = table("linear", STEPS)
    beta = 1 - schedule.alpha_bar_T / torch.cat([torch.ones(1).double(), schedule.alpha_bar_T[:-1]])
    grid = table_grid(schedule, timesteps(STEPS, STEPS, "leading"))
    worst = 0.0
    for t, pair in zip(range(STEPS - 1, -1, -1), pairwise(grid), strict=True):
        now, then = (float(level.a**2) for level in pair)
        b = float(beta[t])
        x0_coefficient, x_coefficient = math.sqrt(then) * b / (1 - now), math.sqrt(1 - b) * (1 - then) / (1 - now)
        book = (x0_coefficient, x_coefficient, math.sqrt(b * (1 - then) / (1 - now)))
        for sampler, options in ((ddim, {"eta": 1.0}), (ddpm, {"variance": "small"})):
            found = [_step(sampler, list(pair), *unit, **options) for unit in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
            worst = max(worst, *(abs(f - e) for f, e in zip(found, book, strict=True)))
    return Check(
        "ddim-is-ddpm",
        "DDIM η=1 = DDPM",
        worst < 1e-10,
        f"all {STEPS} steps: coefficients of x0, x, noise to {worst:.0e}",
    )


def _step(sampler: Sampler, pair: Grid, x0: float, x: float, z: float, **options: Any) -> float:
    """One step where the denoiser answers x0 whatever it is asked."""
    (end,) = sampler(lambda *_: _number(x0), _number(x), pair, lambda step: _number(z), **options)
    return float(end)


REFERENCES: tuple[tuple[str, Spacing, int, float, float | None, float], ...] = (
    ("ddim", "leading", 10, 0.0, None, 0.374128),
    ("ddim", "leading", 50, 0.0, None, 0.472439),
    ("ddim", "leading", 10, 1.0, None, 0.333263),
    ("ddpm", "leading", STEPS, 1.0, 0.299997, 0.496110),
)
"""Sampler, spacing, N, η; the mean where it is known; the standard deviation."""


def two_points(
    ddim: Sampler = samplers.ddim,
    ddpm: Sampler = samplers.ddpm,
    times: Callable[[int, int, Spacing], Tensor] = timesteps,
) -> Check:
    """17. Any linear sampler on any grid has the slope and the intercept that the closed form gives for that grid."""
    schedule = table("linear", STEPS)
    by_name: dict[str, tuple[Sampler, dict[str, Any]]] = {"ddim": (ddim, {}), "ddpm": (ddpm, {"variance": "small"})}
    references = 0.0
    for name, spacing, count, eta, mean, std in REFERENCES:
        sampler, options = by_name[name]
        if name == "ddim":
            options = {"eta": eta}
        found = law(sampler, table_grid(schedule, times(STEPS, count, spacing)), **options)
        references = max(references, abs(found[1] - std), 0.0 if mean is None else abs(found[0] - mean))
    worst, grids = 0.0, 0
    spacings: tuple[Spacing, ...] = ("leading", "trailing", "linspace")
    for spacing in spacings:
        for count in (1, 2, 7, 10, 50, 333):
            times_N = times(STEPS, count, spacing)
            for eta in (0.0, 0.5, 1.0) if count < 50 else (0.0,):
                found = law(ddim, table_grid(schedule, times_N), eta=eta)
                expected = closed_form(schedule, timesteps(STEPS, count, spacing), eta)
                worst, grids = max(worst, *(abs(f - e) for f, e in zip(found, expected, strict=True))), grids + 1
    detail = f"{len(REFERENCES)} reference numbers to {references:.0e}; {grids} grids, N from 1 to 333, to {worst:.0e}"
    return Check("two-point", "noise-free two-point test", references < 1e-6 and worst < 1e-10, detail)


def churned(heun: Sampler = samplers.heun) -> Check:
    """17. Heun with churn has the mean and variance of its closed form, and those of the data in many small steps.

    Noise raises σ to σ̂ and the variance by σ̂² - σ²; then an affine step G from σ̂ to σ' (Karras et al. 2022,
    algorithm 2).
    """
    worst = 0.0
    for count, churn in ((1, 0.0), (5, 0.1), (18, 0.4), (18, math.sqrt(2) - 1)):
        sigmas = karras_sigmas(count, low=0.002, high=80.0)
        offset, variance = -MEAN, 1.0
        for now, then in pairwise([*sigmas.tolist(), 0.0]):
            up = now * (1 + churn)
            ahead = (then - up) * up / (STD**2 + up**2)  # Euler's step
            slope = (ahead + (then - up) * then / (STD**2 + then**2) * (1 + ahead)) / 2 if then else ahead
            offset, variance = (1 + slope) * offset, (1 + slope) ** 2 * (variance + up**2 - now**2)
        found = law(heun, continuous_grid(exploding, sigmas), churn=churn)
        worst = max(worst, abs(found[0] - MEAN - offset), abs(found[1] - math.sqrt(variance)))
    mean, std = law(heun, continuous_grid(exploding, karras_sigmas(400, low=0.002, high=80.0)), churn=0.02)
    far = max(abs(mean - MEAN), abs(std - STD))
    detail = f"closed form to {worst:.0e}; in 400 steps the data's mean and deviation to {far:.0e}"
    return Check("two-point", "Heun with churn", worst < 1e-10 and far < 1e-3, detail)


ORDERS: dict[str, tuple[Sampler, int]] = {
    "Euler": (lambda d, x, g, n: samplers.euler(d, x, g), 1),
    "DDIM": (samplers.ddim, 1),
    "Heun": (lambda d, x, g, n: samplers.heun(d, x, g), 2),
    "DPM-Solver++(2M)": (lambda d, x, g, n: samplers.dpm_solver_2m(d, x, g), 2),
    "DPM-Solver++(2S)": (lambda d, x, g, n: samplers.dpm_solver_2s(d, x, g), 2),
}
"""Samplers with the order of convergence that each claims."""


def order(sampler: Sampler, steps: int = 128) -> float:
    """The measured order: how the error shrinks when the steps of Karras's grid are halved.

    The exact way of x for data N(μ, s0²) is μ + (x - μ) √((s0² + σ²) / (s0² + σmax²)) (identities, 18).
    """
    low, high = 0.02, 20.0
    errors = []
    for count in (steps, 2 * steps):
        grid = continuous_grid(exploding, karras_sigmas(count + 1, low=low, high=high))[:-1]
        exact = MEAN + (high - MEAN) * math.sqrt((STD**2 + low**2) / (STD**2 + high**2))
        errors.append(abs(run(sampler, grid, high) - exact))
    return math.log2(errors[0] / errors[1])


def orders(claims: dict[str, tuple[Sampler, int]] = ORDERS) -> Check:
    """18. Euler and DDIM converge with order 1, Heun and DPM-Solver++(2M) and (2S) with order 2."""
    measured = {name: order(sampler) for name, (sampler, _) in claims.items()}
    holds = all(abs(measured[name] - claimed) < 0.15 for name, (_, claimed) in claims.items())
    return Check(
        "ode-order", "order of convergence", holds, ", ".join(f"{name} {found:.3f}" for name, found in measured.items())
    )
