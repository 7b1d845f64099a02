"""The schedulers of diffusers: agreement with ours, and one named test for each case in which diffusers differs."""

import os
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"
diffusers = pytest.importorskip("diffusers")

from seedfast.diffusion import samplers  # noqa: E402
from seedfast.diffusion.grids import Grid, Spacing, continuous_grid, table_grid, timesteps  # noqa: E402
from seedfast.diffusion.levels import NoiseLevel, add_noise, clean, variance_exploding  # noqa: E402
from seedfast.diffusion.parameterisation import target  # noqa: E402
from seedfast.diffusion.schedules import Betas, betas, table  # noqa: E402
from seedfast.verify.identities.trajectories import closed_form, law, normal_denoiser  # noqa: E402

SCHEDULE = table("linear", 1000)


def eps_at(x: Tensor, t: Any) -> Tensor:
    """The exact noise prediction for the normal data of docs/identities.md#two-point."""
    level = SCHEDULE.at(torch.as_tensor(int(t)))
    return (x - level.a * normal_denoiser(x, level)) / level.s


def theirs(scheduler: Any, steps: int, x: float) -> float:
    """The end point of a scheduler of diffusers from x_T = x, without noise."""
    scheduler.set_timesteps(steps)
    sample = torch.full((1,), x, dtype=torch.float64)
    for t in scheduler.timesteps:
        sample = scheduler.step(eps_at(sample, t), t, sample).prev_sample
    return float(sample)


def ours(sampler: Any, grid: Grid, x: float) -> float:
    *_, final = sampler(normal_denoiser, torch.full((1,), x, dtype=torch.float64), grid)
    return float(final)


@pytest.mark.parametrize(
    ("kind", "name"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2"), ("quadratic", "scaled_linear")]
)
def test_schedules_agree(kind: Betas, name: str) -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule=name)
    assert torch.allclose(betas(kind, 1000).float(), scheduler.betas, rtol=1e-4, atol=1e-7)


def test_zero_terminal_snr_agrees() -> None:
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    found = table("linear", 1000, zero_terminal=True).alpha_bar_T
    # Theirs is in float32, in which the cumulative product of 1 - β loses the last digits.
    assert torch.allclose(found.sqrt(), scheduler.alphas_cumprod.double().sqrt(), atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 10, 50, 250, 1000])
def test_grids_agree_where_the_steps_divide(spacing: Spacing, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    assert timesteps(1000, steps, spacing).tolist() == scheduler.timesteps.tolist()


def test_their_leading_grid_of_600_steps_starts_at_599() -> None:
    """T // N is 1, so the noisiest 40 % of the times are left out. Our grid covers all times."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(600)
    assert scheduler.timesteps[0] == 599
    assert timesteps(1000, 600, "leading")[0] == 998


def test_noising_and_velocity_agree() -> None:
    scheduler = diffusers.DDPMScheduler()
    x0, eps = torch.linspace(-1, 1, 1000)[:, None], torch.linspace(2, -2, 1000)[:, None]
    t = torch.arange(1000)
    level = SCHEDULE.at(t)
    assert torch.allclose(add_noise(x0, eps, level), scheduler.add_noise(x0, eps, t), atol=1e-5)
    assert torch.allclose(target("v", x0, eps, level), scheduler.get_velocity(x0, eps, t), atol=1e-5)


@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddim_agrees_with_leading_spacing(steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    grid = table_grid(SCHEDULE, timesteps(1000, steps, "leading"))
    for x in (0.0, 1.0):
        assert ours(samplers.ddim, grid, x) == pytest.approx(theirs(scheduler, steps, x), abs=2e-5)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_their_ddim_steps_another_grid_than_it_uses(spacing: Spacing) -> None:
    """DDIMScheduler.step goes to t - T//N, whatever the spacing: with linspace that is not the next time of its grid.

    Its slope, the standard deviation of its output for N(0, 1), is therefore not that of the closed form; ours is.
    """
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing)
    times = timesteps(1000, 7, spacing)
    mean, std = closed_form(SCHEDULE, times, 0.0)
    found_mean, found_std = law(samplers.ddim, table_grid(SCHEDULE, times), eta=0.0)
    assert (found_mean, found_std) == pytest.approx((mean, std), abs=1e-12)
    start = theirs(scheduler, 7, 0.0)
    assert abs(theirs(scheduler, 7, 1.0) - start - std) > 1e-3


def test_ddpm_agrees_over_the_whole_chain() -> None:
    scheduler = diffusers.DDPMScheduler(clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(1000)
    x = torch.full((1, 1), 0.7, dtype=torch.float64)
    z = torch.randn(1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (999, 500, 1):
        pair = [SCHEDULE.at(torch.tensor(each)) for each in (t, t - 1)]
        (expected,) = samplers.ddpm(normal_denoiser, x, pair, lambda _: z)
        generator = torch.Generator().manual_seed(0)
        found = scheduler.step(eps_at(x, t), t, x, generator=generator).prev_sample
        assert torch.allclose(found, expected, atol=1e-4)  # their tables are in float32


def sigmas_grid(scheduler: Any) -> Grid:
    """The grid of one of their solvers in σ = s/a, as variance-preserving levels."""
    sigma = scheduler.sigmas.double()
    a = 1 / (1 + sigma.square()).sqrt()
    return [NoiseLevel(a[i], sigma[i] * a[i], sigma[i]) for i in range(len(sigma) - 1)] + [clean()]


DPM_SOLVERS: dict[str, tuple[Any, Any]] = {
    "2M": (
        samplers.dpm_solver_2m,
        lambda: diffusers.DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", timestep_spacing="trailing"
        ),
    ),
    "2S": (
        samplers.dpm_solver_2s,
        lambda: diffusers.DPMSolverSinglestepScheduler(
            algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
        ),
    ),
}


@pytest.mark.parametrize("name", DPM_SOLVERS)
@pytest.mark.parametrize("steps", [20, 50])
def test_dpm_solver_agrees(name: str, steps: int) -> None:
    sampler, scheduler = DPM_SOLVERS[name][0], DPM_SOLVERS[name][1]()
    for start in (0.0, 1.0):
        scheduler.set_timesteps(steps)
        grid = sigmas_grid(scheduler)
        sample = torch.full((1,), start, dtype=torch.float64)
        for t, level in zip(scheduler.timesteps, grid[:-1], strict=True):
            eps = (sample - level.a * normal_denoiser(sample, level)) / level.s
            sample = scheduler.step(eps, t, sample).prev_sample
        assert ours(sampler, grid, start) == pytest.approx(float(sample), abs=1e-4)


def heun_grid(scheduler: Any) -> Grid:
    """Their Heun and Euler work on x/a: a = 1, s = σ."""
    return continuous_grid(variance_exploding, scheduler.sigmas[:-1].unique().flip(0))


@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_euler_and_heun_agree(name: str) -> None:
    scheduler = getattr(diffusers, f"{name}DiscreteScheduler")(timestep_spacing="linspace")
    for start in (0.0, 5.0):
        scheduler.set_timesteps(20)
        grid = heun_grid(scheduler)
        # Their Heun has each σ except the first twice: at the end of a step and at the start of the next.
        sample = torch.full((1,), start, dtype=torch.float64)
        for sigma, t in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            eps = (sample - normal_denoiser(sample, variance_exploding(sigma.double()))) / sigma.double()
            scheduler.scale_model_input(sample, t)
            sample = scheduler.step(eps, t, sample).prev_sample
        sampler = {"Euler": samplers.euler, "Heun": samplers.heun}[name]
        assert ours(sampler, grid, start) == pytest.approx(float(sample), abs=1e-4)


def test_our_steps_are_between_neighbours_of_the_grid() -> None:
    """For every spacing the denoiser is evaluated at the times of the grid, in turn."""
    for spacing in ("leading", "trailing", "linspace"):
        times = timesteps(1000, 7, spacing)
        grid = table_grid(SCHEDULE, times)
        evaluated: list[int] = []

        def denoise(x: Tensor, level: NoiseLevel, evaluated: list[int] = evaluated) -> Tensor:
            evaluated.append(int(level.time))
            return normal_denoiser(x, level)

        for _ in samplers.ddim(denoise, torch.zeros(1).double(), grid):
            pass
        assert evaluated == times.tolist()
        assert all(now.s > then.s for now, then in pairwise(grid))
