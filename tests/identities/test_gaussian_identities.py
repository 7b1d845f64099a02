"""The identities of Gaussian diffusion (docs/identities.md), and deliberately broken twins of each."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seedfast.diffusion import guidance, levels, samplers
from seedfast.diffusion import parameterisation as p
from seedfast.diffusion.grids import Grid, Spacing, even_times, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.levels import NoiseLevel
from seedfast.diffusion.parameterisation import Prediction
from seedfast.diffusion.schedules import betas, cosine_gamma, linear_gamma, table
from seedfast.diffusion.schedules import zero_terminal_snr as rescaled
from seedfast.errors import UserError
from seedfast.verify.identities import gaussian, trajectories
from seedfast.verify.identities.trajectories import ORDERS, Sampler


def test_a_velocity_of_the_wrong_sign_is_refused() -> None:
    def target(prediction: Prediction, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        right = p.target(prediction, x0, eps, level)
        return -right if prediction == "v" else right

    assert not gaussian.conversions(target=target).holds


def test_variance_preserving_conversions_are_refused_on_other_schedules() -> None:
    def to_x0(prediction: Prediction, output: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
        if prediction == "v":  # correct where a² + s² = 1
            return level.a[:, None] * x - level.s[:, None] * output
        return p.to_x0(prediction, output, x, level)

    assert not gaussian.conversions(to_x0=to_x0).holds


def test_min_snr_by_division_is_refused() -> None:
    def naive(prediction: Prediction, level: NoiseLevel, clip: float) -> Tensor:
        return level.snr.clamp(max=clip) / p.x0_weight(prediction, level)  # 0/0 at zero terminal SNR

    assert not gaussian.weights(min_snr=naive).holds


def test_the_weight_of_eps_for_every_prediction_is_refused() -> None:
    assert not gaussian.weights(min_snr=lambda prediction, level, clip: p.min_snr_weight("eps", level, clip)).holds
    assert not gaussian.weights(x0_weight=lambda prediction, level: level.snr).holds


def test_the_large_variance_is_not_the_posterior() -> None:
    def large(denoise: Any, x: Tensor, grid: Grid, noise: Any, **_: Any) -> Iterator[Tensor]:
        return samplers.ddpm(denoise, x, grid, noise, variance="large")

    assert not trajectories.ancestral(ddpm=large).holds


def test_noise_added_to_the_whole_eps_is_refused() -> None:
    def too_much(denoise: Any, x: Tensor, grid: Grid, noise: Any, *, eta: float) -> Iterator[Tensor]:
        for step, (now, then) in enumerate(pairwise(grid)):
            x0 = denoise(x, now)
            added = eta * samplers.posterior_variance(now, then).sqrt() * noise(step)
            x = then.a * x0 + then.s * levels.eps_from_x0(x, x0, now) + added
            yield x

    assert not trajectories.ancestral(ddim=too_much).holds


def steps_another_grid(denoise: Any, x: Tensor, grid: Grid, noise: Any, *, eta: float) -> Iterator[Tensor]:
    """It evaluates the denoiser on the grid, but steps by T/N from each time, as for leading spacing."""
    schedule, gap = table("linear", 1000), 1000 // (len(grid) - 1)
    for now in grid[:-1]:
        t = int(now.time) - gap
        then = schedule.at(torch.tensor(t)) if t >= 0 else levels.clean()
        (x,) = samplers.ddim(denoise, x, [now, then], noise, eta=eta)
        yield x


def test_a_sampler_that_steps_another_grid_is_refused() -> None:
    schedule = table("linear", 1000)
    cases: tuple[tuple[Spacing, int, bool], ...] = (
        ("leading", 10, True), ("trailing", 10, True), ("trailing", 7, False), ("linspace", 10, False),
    )  # fmt: skip
    for spacing, steps, right in cases:
        times = timesteps(1000, steps, spacing)
        found = trajectories.law(steps_another_grid, table_grid(schedule, times), eta=0.0)
        assert (found == pytest.approx(trajectories.closed_form(schedule, times, 0.0), abs=1e-10)) == right
    assert not trajectories.two_points(ddim=steps_another_grid).holds


def test_a_grid_that_leaves_out_the_remainder_is_refused() -> None:
    def truncated(total: int, steps: int, spacing: Spacing) -> Tensor:
        return (
            (torch.arange(steps) * (total // steps)).flip(0)
            if spacing == "leading"
            else timesteps(total, steps, spacing)
        )

    assert not trajectories.two_points(times=truncated).holds


def shrunk(sampler: Sampler, grid: Grid) -> tuple[float, float]:
    """The factor of the deviation of normal data, as measured and as the product of the steps' cosines.

    With tan θ = s / (a s0), a step of DDIM without noise has cos(θ - θ') of the deviation of the exact step.
    """
    last = math.sqrt(float(grid[0].a) ** 2 * trajectories.STD**2 + float(grid[0].s) ** 2)
    found = trajectories.law(sampler, grid, eta=0.0)[1] * last / trajectories.STD
    angles = [math.atan(float(level.s / level.a) / trajectories.STD) for level in grid]
    return found, math.prod(math.cos(now - then) for now, then in pairwise(angles))


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_a_step_of_ddim_shrinks_by_the_cosine_of_its_angle(steps: int) -> None:
    grid = table_grid(table("cosine", 1000), timesteps(1000, steps, "trailing"))
    found, expected = shrunk(samplers.ddim, grid)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_sampler_of_order_2_does_not_shrink_by_those_cosines() -> None:
    def heun(denoise: Any, x: Tensor, grid: Grid, noise: Any, *, eta: float) -> Iterator[Tensor]:
        return samplers.heun(denoise, x, grid)

    found, ddim = shrunk(heun, table_grid(table("cosine", 1000), timesteps(1000, 50, "trailing")))
    assert abs(found - 1) < abs(ddim - 1) / 5


def churned(raised: bool, added: Any) -> Sampler:
    """Heun with churn that may evaluate the denoiser at the level before, or add another amount of noise."""

    def heun(denoise: Any, x: Tensor, grid: Grid, noise: Any, *, churn: float) -> Iterator[Tensor]:
        for step, (now, then) in enumerate(pairwise(grid)):
            up = levels.variance_exploding(now.s * (1 + churn))
            x = x + added(up.s, now.s) * noise(step)
            (x,) = samplers.heun(denoise, x, [up if raised else now, then])
            yield x

    return heun


def test_wrong_churn_is_refused() -> None:
    def variances(up: Tensor, now: Tensor) -> Tensor:
        return (up.square() - now.square()).sqrt()

    assert trajectories.churned(churned(True, variances)).holds
    assert not trajectories.churned(churned(False, variances)).holds, "it evaluates at the level before"
    assert not trajectories.churned(churned(True, torch.sub)).holds, "deviations do not add up"


def heun_of_the_first_slope(denoise: Any, x: Tensor, grid: Grid, noise: Any) -> Iterator[Tensor]:
    """It averages the first slope with itself."""
    return samplers.euler(denoise, x, grid)


def extrapolates_too_far(denoise: Any, x: Tensor, grid: Grid, noise: Any) -> Iterator[Tensor]:
    """It extrapolates by the wrong amount."""
    before: Tensor | None = None
    for now, then in pairwise(grid):
        x0 = denoise(x, now)
        ahead = x0 if before is None else x0 + (x0 - before)
        before = x0
        x = (then.s / now.s) * x + (then.a - now.a * then.s / now.s) * ahead
        yield x


def pairs_that_look_too_far(denoise: Any, x: Tensor, grid: Grid, noise: Any) -> Iterator[Tensor]:
    """Singlestep pairs that extrapolate x0 to the end of both steps, not to their middle."""
    for first, now, then in zip(grid[::2], grid[1::2], grid[2::2], strict=False):
        x0 = denoise(x, first)
        between = (now.s / first.s) * x + (now.a - first.a * now.s / first.s) * x0
        ahead = x0 + (first.gamma - then.gamma) / (first.gamma - now.gamma) * (denoise(between, now) - x0)
        x = (then.s / first.s) * x + (then.a - first.a * then.s / first.s) * ahead
        yield x


@pytest.mark.parametrize("twin", [heun_of_the_first_slope, extrapolates_too_far, pairs_that_look_too_far])
def test_a_sampler_of_order_1_is_not_accepted_as_order_2(twin: Sampler) -> None:
    assert not trajectories.orders({"twin": (twin, 2)}).holds


@pytest.mark.parametrize("name", [name for name, (_, nominal) in ORDERS.items() if nominal == 2])
def test_no_sampler_has_order_3(name: str) -> None:
    assert not trajectories.orders({name: (ORDERS[name][0], 3)}).holds


def test_preconditioning_for_other_data_is_refused() -> None:
    assert not gaussian.preconditioning(
        target=lambda prediction, x0, eps, level, sigma_data: p.target(prediction, x0, eps, level, 1.0)
    ).holds
    assert not gaussian.preconditioning(input_std=lambda level, sigma_data: p.input_std(level, 1.0)).holds


def test_other_dynamic_thresholds_are_refused() -> None:
    clamp_first = lambda x0, q: guidance.dynamically_thresholded(x0.clamp(-1, 1), q)  # noqa: E731
    whole_batch = lambda x0, q: guidance.dynamically_thresholded(x0.flatten()[None], q).view_as(x0)  # noqa: E731
    assert not gaussian.dynamic_thresholding(clamp_first).holds
    assert not gaussian.dynamic_thresholding(whole_batch).holds


def test_the_samplers_derive_eps_again_from_the_changed_x0() -> None:
    """A step uses the ε of the changed x0: x' = a' y + s' (x - a y)/s."""
    grid = [table("linear", 1000).at(torch.tensor(t)) for t in (700, 400)]
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[None]
    y = guidance.dynamically_thresholded(2 * x, 0.9)
    expected = grid[1].a * y + grid[1].s * (x - grid[0].a * y) / grid[0].s
    for sampler in (samplers.ddim, samplers.dpm_solver_2m, samplers.dpm_solver_2s):
        (found,) = sampler(lambda *_: y, x, grid)
        assert torch.allclose(found, expected, rtol=1e-12)


def test_other_rescalings_are_refused() -> None:
    shifted = lambda alpha_bar: (alpha_bar.sqrt() - alpha_bar.sqrt()[-1]).square()  # noqa: E731
    squared = lambda alpha_bar: alpha_bar - alpha_bar[-1]  # noqa: E731
    assert not gaussian.terminal_snr(lambda alpha_bar: alpha_bar).holds
    assert not gaussian.terminal_snr(shifted).holds
    assert not gaussian.terminal_snr(squared).holds


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_every_sampler_starts_from_no_signal(prediction: Prediction) -> None:
    """Every sampler takes its first step from ᾱ = 0 without a division by zero."""
    schedule = table("linear", 1000, zero_terminal=True)
    grid = [schedule.at(t) for t in timesteps(1000, 5, "trailing")] + [levels.clean()]
    x0 = torch.full((2, 3), 0.25, dtype=torch.float64)

    def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
        eps = levels.eps_from_x0(x, x0, level)
        return p.to_x0(prediction, p.target(prediction, x0, eps, level), x, level)

    noise = torch.ones(2, 3, dtype=torch.float64)
    for sampler in (
        samplers.ddpm(denoise, noise, grid, lambda _: noise),
        samplers.ddim(denoise, noise, grid, lambda _: noise, eta=1.0),
        samplers.heun(denoise, noise, grid),
        samplers.dpm_solver_2m(denoise, noise, grid),
        samplers.dpm_solver_2s(denoise, noise, grid),
    ):
        *_, final = sampler
        assert torch.allclose(final, x0, atol=1e-12)


def test_noising_in_bf16_is_refused() -> None:
    def low(x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        a, s = (each.bfloat16()[:, None] for each in (level.a, level.s))
        return a * x0.bfloat16() + s * eps.bfloat16()

    assert not gaussian.low_precision(low).holds


def test_the_other_convention_of_guidance_is_refused() -> None:
    assert not gaussian.classifier_free(lambda u, c, w: (1 + w) * c - w * u).holds


@given(total=st.integers(1, 2000), data=st.data())
def test_every_grid_falls_strictly_and_has_its_ends(total: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, total))
    ends: dict[Spacing, tuple[int | None, int | None]] = {
        "leading": (None, 0), "trailing": (total - 1, None), "linspace": (total - 1, 0 if steps > 1 else None),
    }  # fmt: skip
    for spacing, (first, last) in ends.items():
        times = timesteps(total, steps, spacing).tolist()
        assert len(times) == steps
        assert all(now > then for now, then in pairwise(times))
        assert all(0 <= t < total for t in times)
        assert first in (None, times[0])
        assert last in (None, times[-1])


def test_a_grid_of_all_times_is_all_times() -> None:
    for spacing in ("leading", "trailing", "linspace"):
        assert timesteps(10, 10, spacing).tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize("steps", [0, 11])
def test_a_grid_with_more_steps_than_times_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match=f"1 to 10 steps, not {steps}"):
        timesteps(10, steps, "leading")


def test_continuous_grids() -> None:
    assert even_times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    sigmas = karras_sigmas(18, low=0.002, high=80.0)
    assert float(sigmas[0]) == pytest.approx(80, rel=1e-12)
    assert float(sigmas[-1]) == pytest.approx(0.002, rel=1e-9)
    # Equation 5 is even in σ^(1/ρ).
    gaps = sigmas.pow(1 / 7).diff()
    assert torch.allclose(gaps, gaps[:1].expand_as(gaps), rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine", "quadratic", "sigmoid"])
def test_schedules_lose_signal_monotonically(kind: Any) -> None:
    alpha_bar = table(kind, 1000).alpha_bar_T
    assert alpha_bar.dtype == torch.float64
    assert bool((alpha_bar.diff() < 0).all())
    assert float(alpha_bar[0]) > 0.999
    assert 0 < float(alpha_bar[-1]) < 0.03
    assert float(table(kind, 1000, zero_terminal=True).alpha_bar_T[-1]) == 0
    assert float(betas(kind, 1000).max()) <= 0.999


def test_rescaling_twice_equals_rescaling_once() -> None:
    once = rescaled(table("linear", 1000).alpha_bar_T)
    assert torch.allclose(rescaled(once), once, rtol=1e-14)


@pytest.mark.parametrize("gamma", [linear_gamma, cosine_gamma])
def test_levels_from_gamma_have_this_gamma(gamma: Any) -> None:
    time = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = gamma(time, -13.3, 5.0)
    level = levels.from_gamma(values, time)
    assert float(values[0]) == pytest.approx(-13.3, rel=1e-9)
    assert float(values[-1]) == pytest.approx(5.0, rel=1e-9)
    assert bool((values.diff() > 0).all())
    assert torch.allclose(level.gamma, values, rtol=1e-9)
    assert torch.allclose(level.a.square() + level.s.square(), torch.ones(101, dtype=torch.float64), rtol=1e-15)


def test_the_cosine_table_is_the_cosine() -> None:
    """Up to its clamped end, ᾱ_t is cos² of an even angle (Nichol & Dhariwal 2021, equation 17)."""
    t = torch.arange(1, 900, dtype=torch.float64) / 1000
    curve = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    curve = curve / torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2).double()) ** 2
    assert torch.allclose(table("cosine", 1000).alpha_bar_T[:899], curve, rtol=1e-12)
