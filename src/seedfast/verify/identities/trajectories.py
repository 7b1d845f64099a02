"""Samplers on normal data, for which every step and the whole trajectory have a closed form.

The identities are docs/identities.md#ddim-is-ddpm, #two-point and #ode-order.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid, Spacing, continuous_grid, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.levels import NoiseLevel, variance_exploding
from seedfast.diffusion.samplers import Noise
from seedfast.diffusion.schedules import DiscreteSchedule, table
from seedfast.verify.identities.check import Check

Sampler = Callable[..., Iterator[Tensor]]
"""A sampler with the signature of `samplers.ddim`."""
STEPS = 1000
MEAN, STD = 0.3, 0.5


def _number(value: float) -> Tensor:
    return torch.full((1,), value, dtype=torch.float64)


def normal_denoiser(x: Tensor, level: NoiseLevel) -> Tensor:
    """The exact x0 for data N(μ, s0²): its posterior mean given x, at any level."""
    variance = level.a.square() * STD**2 + level.s.square()
    return (level.a * STD**2 * x + level.s.square() * MEAN) / variance


def run(sampler: Sampler, grid: Grid, x: float, noise: Noise = lambda step: _number(0.0), **options: Any) -> float:
    """The end point of the sampler from x_T = x, with this noise."""
    *_, final = sampler(normal_denoiser, _number(x), grid, noise, **options)
    return float(final)


def law(sampler: Sampler, grid: Grid, **options: Any) -> tuple[float, float]:
    """Mean and standard deviation of a linear sampler's output for x_T ~ N(0, 1), from two points and unit noise.

    x_T = 0 and 1 without noise give intercept and slope; noise 1 in a single step gives the variance that it adds.
    """
    intercept = run(sampler, grid, 0.0, **options)
    variance = (run(sampler, grid, 1.0, **options) - intercept) ** 2
    mean, total = 0.0, 1.0
    if options.get("eta") == 0:
        return intercept, math.sqrt(variance)
    for pair in pairwise(grid):  # each step separately: N runs instead of N²
        step = list(pair)
        start = run(sampler, step, 0.0, **options)
        slope = run(sampler, step, 1.0, **options) - start
        added = run(sampler, step, 0.0, lambda step: _number(1.0), **options) - start
        mean, total = slope * mean + start, slope**2 * total + added**2
    return mean, math.sqrt(total)


def closed_form(schedule: DiscreteSchedule, times_N: Tensor, eta: float) -> tuple[float, float]:
    """The same in closed form: each step multiplies the offset from a·μ, and the deviation, by its factor G."""
    alpha_bars = [float(schedule.alpha_bar_T[t]) for t in times_N] + [1.0]
    offset, variance = -math.sqrt(alpha_bars[0]) * MEAN, 1.0
    for start, end in pairwise(alpha_bars):
        added = eta**2 * (1 - end) / (1 - start) * (1 - start / end)
        total = start * STD**2 + 1 - start
        factor = (math.sqrt(start * end) * STD**2 + math.sqrt((1 - end - added) * (1 - start))) / total
        offset, variance = factor * offset, factor**2 * variance + added
    return MEAN + offset, math.sqrt(variance)


def ancestral(ddim: Sampler = samplers.ddim, ddpm: Sampler = samplers.ddpm) -> Check:
    """DDIM with η = 1 over the full chain is the posterior of DDPM: equal mean coefficients, and σ² = β̃."""
    schedule = table("linear", STEPS)
    beta = 1 - schedule.alpha_bar_T / torch.cat([torch.ones(1).double(), schedule.alpha_bar_T[:-1]])
    grid = table_grid(schedule, timesteps(STEPS, STEPS, "leading"))
    worst = 0.0
    for t, pair in zip(range(STEPS - 1, -1, -1), pairwise(grid), strict=True):
        start, end = (float(level.a**2) for level in pair)
        b = float(beta[t])
        x0_coefficient, x_coefficient = math.sqrt(end) * b / (1 - start), math.sqrt(1 - b) * (1 - end) / (1 - start)
        expected = (x0_coefficient, x_coefficient, math.sqrt(b * (1 - end) / (1 - start)))
        for sampler, options in ((ddim, {"eta": 1.0}), (ddpm, {"variance": "small"})):
            found = [_step(sampler, list(pair), *unit, **options) for unit in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
            worst = max(worst, *(abs(f - e) for f, e in zip(found, expected, strict=True)))
    return Check(
        "ddim-is-ddpm",
        "DDIM η=1 = DDPM",
        worst < 1e-10,
        f"all {STEPS} steps: coefficients of x0, x, noise to {worst:.0e}",
    )


def _step(sampler: Sampler, pair: Grid, x0: float, x: float, z: float, **options: Any) -> float:
    """One step with a denoiser that always returns x0."""
    (end,) = sampler(lambda *_: _number(x0), _number(x), pair, lambda step: _number(z), **options)
    return float(end)


REFERENCES: tuple[tuple[str, Spacing, int, float, float | None, float], ...] = (
    ("ddim", "leading", 10, 0.0, None, 0.374128),
    ("ddim", "leading", 50, 0.0, None, 0.472439),
    ("ddim", "leading", 10, 1.0, None, 0.333263),
    ("ddpm", "leading", STEPS, 1.0, 0.299997, 0.496110),
)
"""Sampler, spacing, N, η; the mean if known; the standard deviation."""


def two_points(
    ddim: Sampler = samplers.ddim,
    ddpm: Sampler = samplers.ddpm,
    times: Callable[[int, int, Spacing], Tensor] = timesteps,
) -> Check:
    """A linear sampler on any grid has the slope and the intercept of the closed form for that grid."""
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
    """Heun with churn has the mean and variance of its closed form, and those of the data for many small steps.

    Each step adds noise, which raises σ to σ̂ and the variance by σ̂² - σ², and then is an affine step G from σ̂ to σ'
    (Karras et al. 2022, algorithm 2).
    """
    worst = 0.0
    for count, churn in ((1, 0.0), (5, 0.1), (18, 0.4), (18, math.sqrt(2) - 1)):
        sigmas = karras_sigmas(count, low=0.002, high=80.0)
        offset, variance = -MEAN, 1.0
        for start, end in pairwise([*sigmas.tolist(), 0.0]):
            up = start * (1 + churn)
            euler = (end - up) * up / (STD**2 + up**2)
            slope = (euler + (end - up) * end / (STD**2 + end**2) * (1 + euler)) / 2 if end else euler
            offset, variance = (1 + slope) * offset, (1 + slope) ** 2 * (variance + up**2 - start**2)
        found = law(heun, continuous_grid(variance_exploding, sigmas), churn=churn)
        worst = max(worst, abs(found[0] - MEAN - offset), abs(found[1] - math.sqrt(variance)))
    mean, std = law(heun, continuous_grid(variance_exploding, karras_sigmas(400, low=0.002, high=80.0)), churn=0.02)
    distance = max(abs(mean - MEAN), abs(std - STD))
    detail = f"closed form to {worst:.0e}; in 400 steps the data's mean and deviation to {distance:.0e}"
    return Check("two-point", "Heun with churn", worst < 1e-10 and distance < 1e-3, detail)


ORDERS: dict[str, tuple[Sampler, int]] = {
    "Euler": (lambda d, x, g, n: samplers.euler(d, x, g), 1),
    "DDIM": (samplers.ddim, 1),
    "Heun": (lambda d, x, g, n: samplers.heun(d, x, g), 2),
    "DPM-Solver++(2M)": (lambda d, x, g, n: samplers.dpm_solver_2m(d, x, g), 2),
    "DPM-Solver++(2S)": (lambda d, x, g, n: samplers.dpm_solver_2s(d, x, g), 2),
}
"""Samplers and their nominal orders of convergence."""


def order(sampler: Sampler, steps: int = 128) -> float:
    """The measured order: log2 of the ratio of errors with N and 2N steps of Karras's grid.

    The exact trajectory for data N(μ, s0²) is x(σ) = μ + (x - μ) √((s0² + σ²) / (s0² + σmax²)).
    """
    low, high = 0.02, 20.0
    errors = []
    for count in (steps, 2 * steps):
        grid = continuous_grid(variance_exploding, karras_sigmas(count + 1, low=low, high=high))[:-1]
        exact = MEAN + (high - MEAN) * math.sqrt((STD**2 + low**2) / (STD**2 + high**2))
        errors.append(abs(run(sampler, grid, high) - exact))
    return math.log2(errors[0] / errors[1])


def orders(nominal: dict[str, tuple[Sampler, int]] = ORDERS) -> Check:
    """Euler and DDIM converge with order 1, Heun and DPM-Solver++(2M) and (2S) with order 2."""
    measured = {name: order(sampler) for name, (sampler, _) in nominal.items()}
    holds = all(abs(measured[name] - order) < 0.15 for name, (_, order) in nominal.items())
    return Check(
        "ode-order", "order of convergence", holds, ", ".join(f"{name} {found:.3f}" for name, found in measured.items())
    )
