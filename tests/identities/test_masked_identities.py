"""The bound of masked diffusion, and broken twins of its objective and generator that each fail an identity."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.helpers.tasks import changed
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.text.corpus import TextAssets
from seedfast.families.family import Terms
from seedfast.families.generator import State
from seedfast.families.text import mask_counts
from seedfast.families.text import masked as family_module
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.mask_counts import CountLaw
from seedfast.families.text.masked import Masked, MaskedGenerator, MaskedObjective, MaskedTask
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, alpha
from seedfast.keys import Draws
from seedfast.verify.identities import masked
from seedfast.verify.identities.sources import Answer
from seedfast.verify.identities.toys import assets


class PredictsMask(MaskedObjective):
    """Its loss allows the network a probability of [MASK]."""

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        self.vocabulary += 1
        terms = super().loss(network, task, state)
        self.vocabulary -= 1
        return terms


class WritesMask(MaskedGenerator):
    """Its sampler may draw [MASK]."""

    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        self.symbols = replace(self.symbols, size=self.symbols.size + 1)
        return super().fill(decoding, canvases)


class RewritesFixed(MaskedGenerator):
    """Its sampler generates every position."""

    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        blank = [Canvas(canvas.tokens_L, torch.zeros_like(canvas.fixed_L)) for canvas in canvases]
        return super().fill(decoding, blank)


class CountsVisible(MaskedObjective):
    """It counts the cross-entropy of visible tokens too."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return changed(super().task(batch, draws), masked_BL=batch["scored"])


class MasksUnscored(MaskedObjective):
    """It masks tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task({**batch, "scored": torch.ones_like(batch["scored"])}, draws)
        return changed(task, masked_BL=task.masked_BL & batch["scored"], weight_B=batch["scored"].sum(dim=1))


@pytest.mark.parametrize(
    ("twin", "broken"),
    [
        (PredictsMask, "NOT p([MASK]) = 0"),
        (CountsVisible, "NOT visible tokens are copied and cost 0"),
        (CountsVisible, "NOT nothing masked costs 0"),
        (MasksUnscored, "NOT visible tokens are copied and cost 0"),
    ],
)
def test_twins_whose_objective_breaks_subs_fail(twin: masked.Build, broken: str) -> None:
    check = masked.subs(twin)
    assert not check.holds
    assert broken in check.detail


@pytest.mark.parametrize("twin", [WritesMask, RewritesFixed])
def test_twins_whose_sampler_breaks_subs_fail(twin: masked.BuildGenerator) -> None:
    check = masked.subs(generator=twin)
    assert not check.holds
    assert check.detail == "NOT samplers write no [MASK] and change no fixed token"


class CountsFromZero(MaskedObjective):
    """It masks one token less than it says."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        first_BL = task.masked_BL & (task.masked_BL.cumsum(dim=1) == 1)
        masked_BL = task.masked_BL & ~first_BL
        return changed(
            task,
            masked_BL=masked_BL,
            inputs_BL=task.targets_BL.masked_fill(masked_BL, self.mask),
        )


class Unweighted(MaskedObjective):
    """It sums the cross-entropy of masked tokens without a weight."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return changed(task, scale_BL=torch.ones_like(task.scale_BL))


class CountsThePadding(MaskedObjective):
    """It weighs by the window's length, also where fewer tokens are scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return changed(task, scale_BL=task.scale_BL * batch["scored"].shape[1] / task.weight_B.unsqueeze(1))


class MasksUnscoredInTime(MaskedObjective):
    """In continuous time, it masks and counts tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        if self.options.estimator == "continuous":
            batch = {**batch, "scored": torch.ones_like(batch["scored"])}
        return super().task(batch, draws)


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsThePadding, CountsVisible, MasksUnscoredInTime])
def test_twins_that_estimate_something_else_fail(twin: masked.Build) -> None:
    assert not masked.nelbo_three_ways(twin).holds


def test_twin_that_weighs_other_counts_than_it_draws_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def weighed_as_uniform(law: CountLaw, u_P: Tensor, scored_P: Tensor) -> tuple[Tensor, Tensor]:
        k_P = mask_counts.counts(law, u_P, scored_P)[0]
        return k_P, scored_P / k_P

    monkeypatch.setattr(family_module, "counts", weighed_as_uniform)
    assert not masked.nelbo_three_ways().holds


def test_twin_with_the_weight_of_reversed_time_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_module, "weight", lambda schedule, t: 1 / (1 - t))
    assert not masked.nelbo_three_ways().holds


def _weight_of_linear(schedule: str, t: Tensor) -> Tensor:
    return 1 / t


def _nichols_cosine(schedule: str, t: Tensor) -> Tensor:
    """Another cosine than that of the weight (Nichol & Dhariwal 2021)."""
    return torch.cos(torch.pi / 2 * t) ** 2 if schedule == "cosine" else alpha(schedule, t)


def test_twins_with_the_weight_of_another_schedule_fail() -> None:
    assert not masked.schedule_invariance(weight=_weight_of_linear).holds
    assert not masked.schedule_invariance(alpha=_nichols_cosine).holds


@pytest.mark.parametrize(("name", "twin"), [("weight", _weight_of_linear), ("alpha", _nichols_cosine)])
def test_twins_whose_tasks_have_the_weight_of_another_schedule_fail(
    name: str, twin: Callable[[str, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_module, name, twin)
    check = masked.schedule_invariance()  # its own two functions are still correct
    assert not check.holds
    assert float(check.detail.split()[-1].rstrip(")")) < 1e-12


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsVisible])
def test_twins_that_are_not_tight_fail(twin: masked.Build) -> None:
    assert not masked.tightness(twin).holds


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsVisible])
def test_twins_that_score_less_fail(twin: masked.Build) -> None:
    assert not masked.uniform_network(twin).holds


def test_twin_with_the_cut_off_of_a_known_implementation_scores_0_999_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # It masks with probability (1-ε)t and weighs by 1/t, ε = 1e-3: slightly less than the entropy, so no bound.
    monkeypatch.setattr(family_module, "alpha", lambda schedule, t: 1 - (1 - 1e-3) * t)
    assert not masked.uniform_network().holds
    network = Answer(lambda tokens_BL: torch.zeros(*tokens_BL.shape, 3))
    family = MaskedObjective(Masked(estimator="continuous"), assets(3, 4))
    estimate = masked.continuous(family, network, torch.tensor([[0, 1, 2, 0]]))
    assert float(estimate) / (4 * math.log(3)) == pytest.approx(0.999, abs=1e-6)


def _continuous(options: Masked, home: TextAssets) -> MaskedObjective:
    return MaskedObjective(Masked(estimator="continuous"), home)


class Independent(MaskedObjective):
    """Its k are independent of each other."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, group=1))


def test_twin_in_continuous_time_is_not_better_than_itself() -> None:
    assert not masked.loss_variance(_continuous).holds


def test_stratification_contributes_to_the_lower_deviation() -> None:
    whole, unstratified = (masked.loss_variance(build).detail for build in (MaskedObjective, Independent))
    assert float(whole.split()[0]) < 0.9 * float(unstratified.split()[0])


def _uniform(options: Masked, home: TextAssets) -> MaskedObjective:
    return MaskedObjective(Masked(estimator="fixed-k"), home)


@pytest.mark.parametrize("twin", [_uniform, _continuous])
def test_twins_with_other_counts_do_not_have_the_lower_gradient_deviation(twin: masked.Build) -> None:
    assert not masked.gradient_variance(twin).holds
