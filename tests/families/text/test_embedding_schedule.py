"""The noise schedules of embedding diffusion: γ and its slope, the prior, and the learned density."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.embedding import draws_of, random_batch, random_network, small_objective
from torch import Tensor

from seedfast.diffusion.schedules import betas, table
from seedfast.families.text.embedding.noise_schedule import (
    TIMES,
    LearnedSchedule,
    ScheduleKind,
    TabulatedSchedule,
    build_schedule,
    prior_kl,
)


@pytest.mark.parametrize("kind", ["learned", "linear", "cosine"])
def test_gamma_rises_and_its_slope_is_its_derivative(kind: ScheduleKind) -> None:
    schedule = build_schedule(kind)
    if isinstance(schedule, LearnedSchedule):
        torch.nn.init.constant_(schedule.centre, 1.3)
    time_T = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    gamma_T, slope_T = schedule(time_T)
    assert (gamma_T.diff() > 0).all()
    ahead_T, behind_T = schedule(time_T + 1e-9)[0], schedule(time_T - 1e-9)[0]
    agree_T = ((ahead_T - behind_T) / 2e-9 - slope_T).abs() / slope_T < 1e-4
    assert float(agree_T.float().mean()) > 0.97, "everywhere but at the corners between pieces"
    assert bool((schedule.table().alpha_bar_T.diff() < 0).all())


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_tabulated_schedules_are_their_tables(kind: Any) -> None:
    assert torch.allclose(TabulatedSchedule(kind).table().alpha_bar_T, table(kind, TIMES).alpha_bar_T, rtol=1e-9)
    beta_T = betas(kind, TIMES)
    assert float(beta_T.min()) >= 1e-5
    assert float(beta_T.max()) <= 0.999


@given(gamma=st.floats(-8, 12), channels=st.integers(1, 64))
def test_the_prior_is_the_divergence_of_a_normal_distribution(gamma: float, channels: int) -> None:
    a2 = torch.sigmoid(torch.tensor(-gamma).double())
    s2 = 1 - a2
    by_channel = (a2 + s2 - 1 - s2.log()) / 2  # the mean square of an embedding's channel is 1
    assert float(prior_kl(torch.tensor(gamma).double(), channels)) == pytest.approx(
        float(channels * by_channel), rel=1e-6, abs=1e-9
    )


def error_curve(gamma_B: Tensor, centre: float) -> Tensor:
    """An error e(γ) like that of a model, with integral 1: steep at the clean side, like the SNR at the noisy side."""
    x_B = gamma_B - centre
    return 1.3163 / ((-2 * x_B).exp() + 2 * x_B.exp())


def second_moment(schedule: LearnedSchedule, centre: float) -> float:
    """E[(e/p)²] over times; its minimum over p is (∫ e)² = 1."""
    gamma_B, slope_B = schedule((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    return float((slope_B * error_curve(gamma_B, centre)).detach().square().mean())


def fit(schedule: LearnedSchedule, *, steps: int = 1000, sign: float = 1.0) -> None:
    """Fit the density as training does, twelve examples a step, while the maximum moves from γ = 4.5 to γ = 0.5."""
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.01, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        time_B = (torch.arange(12, dtype=torch.float64) + offset) / 12
        gamma_B, slope_B = schedule(time_B)
        estimate_B = (slope_B * error_curve(gamma_B, 4.5 - 4 * min(1.0, 2 * step / steps))).detach()
        optimizer.zero_grad()
        (sign * estimate_B * schedule.negative_log_density(time_B)).mean().backward()
        optimizer.step()


def test_the_learned_density_follows_the_errors() -> None:
    schedule = LearnedSchedule()
    gamma_B = torch.linspace(-3, 8, 10001, dtype=torch.float64)
    assert float(torch.trapezoid(error_curve(gamma_B, 2.5), gamma_B)) == pytest.approx(1, abs=0.02)
    assert second_moment(schedule, 0.5) > 2.5
    fit(schedule)
    assert second_moment(schedule, 0.5) < 1.3


def test_twin_a_density_that_avoids_the_errors_has_a_higher_variance() -> None:
    schedule = LearnedSchedule()
    fit(schedule, sign=-1.0, steps=300)
    assert second_moment(schedule, 0.5) > 4


def test_the_fit_of_the_density_adds_nothing_to_the_loss() -> None:
    objective = small_objective()
    network, task = random_network(objective), objective.task(random_batch(6), draws_of(6))
    terms = objective.loss(network, task, {})
    parts = sum(float(terms.diagnostics[name][0]) for name in ("reconstruction", "diffusion", "prior"))
    assert float(terms.total_B.detach().sum()) == pytest.approx(parts, rel=1e-6)
    terms.total_B.sum().backward()
    schedule = network.schedule
    assert isinstance(schedule, LearnedSchedule)
    for parameter in (schedule.centre, schedule.log_width):
        assert parameter.grad is not None
        assert parameter.grad.abs() > 0
