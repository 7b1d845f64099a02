"""Identities 1 to 6, and twins of the masked family that each break one of them."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seedfast.cli.verify import verify
from seedfast.data.dataset import Batch
from seedfast.data.text.config import TextAssets
from seedfast.families.family import State, Task, Terms
from seedfast.families.text import masked as family_module
from seedfast.families.text.masked import Masked, MaskedDiffusion, MaskedRequest, MaskedTask, alpha
from seedfast.families.text.request import Canvas, Show
from seedfast.keys import Draws
from seedfast.verify import identities
from seedfast.verify.identities import check_all, masked
from seedfast.verify.identities.sources import Answer
from seedfast.verify.identities.toys import assets


def test_every_identity_holds_on_the_installed_code() -> None:
    checks = list(check_all())
    assert [str(check) for check in checks if not check.holds] == []
    assert {check.number for check in checks} == {*range(1, 27), 29, 30, 32, 33}
    assert str(checks[1]).startswith("identity 2   NELBO three ways: ")


def test_the_command_says_which_identity_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(identities, "check_all", lambda: iter([masked.tightness(), masked.tightness(Unweighted)]))
    assert verify(["identities"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line[:22] for line in printed] == ["ok   identity 4   tigh", "FAIL identity 4   tigh", "1 failed"]
    monkeypatch.setattr(identities, "check_all", lambda: iter([masked.tightness()]))
    assert verify(["identities"]) == 0


class PredictsMask(MaskedDiffusion):
    """Its loss lets the network put probability on [MASK]."""

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        self.vocabulary += 1
        terms = super().loss(network, task, state)
        self.vocabulary -= 1
        return terms


class WritesMask(MaskedDiffusion):
    """Its sampler may draw [MASK]."""

    def fill(
        self, network: nn.Module, canvases: list[Canvas], request: MaskedRequest, draws: Draws, show: Show | None
    ) -> list[list[int]]:
        self.vocabulary += 1
        filled = super().fill(network, canvases, request, draws, show)
        self.vocabulary -= 1
        return filled


class RewritesGiven(MaskedDiffusion):
    """Its sampler writes every position."""

    def fill(
        self, network: nn.Module, canvases: list[Canvas], request: MaskedRequest, draws: Draws, show: Show | None
    ) -> list[list[int]]:
        blank = [Canvas(canvas.tokens_L, torch.zeros_like(canvas.given_L)) for canvas in canvases]
        return super().fill(network, blank, request, draws, show)


class CountsVisible(MaskedDiffusion):
    """It charges visible tokens too."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return replace(super().task(batch, draws), masked_BL=batch["scored"])


class MasksUnscored(MaskedDiffusion):
    """It hides tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task({**batch, "scored": torch.ones_like(batch["scored"])}, draws)
        return replace(task, masked_BL=task.masked_BL & batch["scored"], weight_B=batch["scored"].sum(dim=1))


def test_1_subs() -> None:
    assert masked.subs().holds


@pytest.mark.parametrize(
    ("twin", "broken"),
    [
        (PredictsMask, "NOT p([MASK]) = 0"),
        (WritesMask, "NOT samplers write no [MASK]"),
        (RewritesGiven, "NOT samplers write no [MASK] and change no given token"),
        (CountsVisible, "NOT visible tokens are copied and cost 0"),
        (CountsVisible, "NOT nothing masked costs 0"),
        (MasksUnscored, "NOT visible tokens are copied and cost 0"),
    ],
)
def test_1_twins_that_break_subs_are_refused(twin: masked.Build, broken: str) -> None:
    check = masked.subs(twin)
    assert not check.holds
    assert broken in check.detail


class CountsFromZero(MaskedDiffusion):
    """It masks k uniform in 0 … n-1 of n tokens."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        first_BL = task.masked_BL & (task.masked_BL.cumsum(dim=1) == 1)
        masked_BL = task.masked_BL & ~first_BL
        return replace(
            task,
            masked_BL=masked_BL,
            inputs_BL=task.targets_BL.masked_fill(masked_BL, self.mask),
            scale_BK=(task.weight_B / masked_BL.sum(dim=1).clamp(min=1)).unsqueeze(1),
        )


class Unweighted(MaskedDiffusion):
    """It sums the cross-entropy of what is masked, whatever the share."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return replace(task, scale_BK=torch.ones_like(task.scale_BK))


class CountsThePadding(MaskedDiffusion):
    """Its weight is n/k with the window's length for n, also where fewer tokens are scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return replace(task, scale_BK=task.scale_BK * batch["scored"].shape[1] / task.weight_B.unsqueeze(1))


def test_2_nelbo_three_ways() -> None:
    assert masked.nelbo_three_ways().holds


class MasksUnscoredInTime(MaskedDiffusion):
    """In continuous time, it hides and charges tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        if self.options.estimator == "continuous":
            batch = {**batch, "scored": torch.ones_like(batch["scored"])}
        return super().task(batch, draws)


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsThePadding, CountsVisible, MasksUnscoredInTime])
def test_2_twins_that_estimate_something_else_are_refused(twin: masked.Build) -> None:
    assert not masked.nelbo_three_ways(twin).holds


def test_2_twin_the_weight_of_reversed_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_module, "weight", lambda schedule, t: 1 / (1 - t))
    assert not masked.nelbo_three_ways().holds


def test_3_schedule_invariance() -> None:
    assert masked.schedule_invariance().holds


def _weight_of_linear(schedule: str, t: Tensor) -> Tensor:
    return 1 / t


def _nichols_cosine(schedule: str, t: Tensor) -> Tensor:
    """Another cosine than the one whose weight is used (Nichol & Dhariwal 2021)."""
    return torch.cos(torch.pi / 2 * t) ** 2 if schedule == "cosine" else alpha(schedule, t)


def test_3_twins_whose_weight_is_not_that_of_their_schedule_are_refused() -> None:
    assert not masked.schedule_invariance(weight=_weight_of_linear).holds
    assert not masked.schedule_invariance(alpha=_nichols_cosine).holds


@pytest.mark.parametrize(("name", "twin"), [("weight", _weight_of_linear), ("alpha", _nichols_cosine)])
def test_3_twins_whose_tasks_are_not_weighted_by_their_schedule_are_refused(
    name: str, twin: Callable[[str, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_module, name, twin)
    check = masked.schedule_invariance()  # its own two functions are still the right ones
    assert not check.holds
    assert float(check.detail.split()[-1].rstrip(")")) < 1e-12


def test_4_tightness() -> None:
    assert masked.tightness().holds


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsVisible])
def test_4_twins_that_are_not_tight_are_refused(twin: masked.Build) -> None:
    assert not masked.tightness(twin).holds


def test_5_the_uniform_network_scores_l_log_v() -> None:
    assert masked.uniform_network().holds


@pytest.mark.parametrize("twin", [CountsFromZero, Unweighted, CountsVisible])
def test_5_twins_that_dip_below_are_refused(twin: masked.Build) -> None:
    assert not masked.uniform_network(twin).holds


def test_5_twin_the_cut_off_of_a_known_implementation_gives_0_999_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # It hides with probability (1-ε)t and weighs by 1/t, ε = 1e-3: a little less than the entropy, so no bound.
    monkeypatch.setattr(family_module, "alpha", lambda schedule, t: 1 - (1 - 1e-3) * t)
    assert not masked.uniform_network().holds
    network = Answer(lambda tokens_BL: torch.zeros(*tokens_BL.shape, 3))
    family = MaskedDiffusion(Masked(estimator="continuous"), assets(3, 4))
    estimate = masked.continuous(family, network, torch.tensor([[0, 1, 2, 0]]))
    assert float(estimate) / (4 * math.log(3)) == pytest.approx(0.999, abs=1e-6)


def test_6_fixed_k_deviates_far_less_than_weighting_by_1_over_t() -> None:
    assert masked.estimator_variance().holds


def _continuous(options: Masked, home: TextAssets) -> MaskedDiffusion:
    return MaskedDiffusion(Masked(estimator="continuous"), home)


class Independent(MaskedDiffusion):
    """Its k are independent of each other."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, group=1))


def test_6_twin_continuous_time_is_not_better_than_itself() -> None:
    assert not masked.estimator_variance(_continuous).holds


def test_6_stratification_is_part_of_it() -> None:
    whole, unstratified = (masked.estimator_variance(build).detail for build in (MaskedDiffusion, Independent))
    assert float(whole.split()[0]) < 0.9 * float(unstratified.split()[0])
