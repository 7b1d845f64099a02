"""Identities 13, 22 and 24 of embedding diffusion, its sampler against a known law, and twins that break each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.embedding import EmbeddingDiffusion, network, sampling
from seedfast.families.text.embedding import noise_schedule as schedules
from seedfast.families.text.embedding.family import EmbeddingTask
from seedfast.families.text.embedding.network import Answer, EmbeddingNetwork
from seedfast.families.text.embedding.sampling import EmbeddingRequest
from seedfast.families.text.request import Canvas
from seedfast.keys import Draws
from seedfast.verify.identities import embedding
from seedfast.verify.identities.check import total_variation
from seedfast.verify.identities.toys import codes

LAW = torch.tensor([0.45, 0.15, 0.1, 0.3]).double()


def test_13_the_bound_with_the_exact_posterior() -> None:
    assert embedding.variational_bound().holds


class ForgetsThePrior(EmbeddingDiffusion):
    """Its z₁ costs nothing."""

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        terms = super().loss(network, task, state)
        share = terms.diagnostics["prior"][0] / terms.diagnostics["prior"][1]
        return replace(terms, total_B=terms.total_B - share * task.weight_B)


def test_13_twin_without_the_prior_is_refused() -> None:
    assert not embedding.variational_bound(ForgetsThePrior).holds


def test_13_twin_a_decoder_that_takes_all_tokens_for_equally_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingNetwork, "decode", lambda self, z, level: self.evidence(z, level).log_softmax(dim=-1))
    assert not embedding.variational_bound().holds


class Halved(schedules.Learned):
    """Its slope is not that of its γ."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        gamma_B, slope_B = super().forward(time_B)
        return gamma_B, slope_B * 1.001


class EvenlySpread(schedules.Learned):
    """It weighs as if the noise levels were evenly spread, whatever their density."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        gamma_B, _ = super().forward(time_B)
        return gamma_B, (self.ends[1] - self.ends[0]).double().expand_as(gamma_B)


@pytest.mark.parametrize("twin", [Halved, EvenlySpread])
def test_13_twins_with_another_weight_are_refused(
    twin: type[schedules.Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "Learned", twin)
    monkeypatch.setattr(schedules, "build", lambda kind: twin())
    assert not embedding.variational_bound().holds


def test_13_twin_a_network_that_forgets_its_own_evidence_is_above_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingNetwork, "evidence", lambda self, z, level: 0 * z @ self.embeddings().T)
    assert not embedding.variational_bound().holds


def _padded(size: int, lengths: tuple[float, float] = (0.3, 0.7)) -> tuple[float, float]:
    """The family's expected loss on texts of so many of two tokens, and the bound with the exact posterior."""
    token = torch.tensor([0.7, 0.3]).double()
    law = torch.outer(token, token).flatten()  # the tokens do not depend on each other: any decoder knows it all
    family, built = embedding.world(law, 2, ends=(-1.0, 1.5), apart=True)
    assert built.lengths is not None
    built.lengths.data.copy_(torch.tensor(lengths).log())
    real_L = torch.arange(2) < size
    found = embedding.expected_loss(family, built, law, 2, noises=33, times=2, real_L=real_L)
    exact = embedding.exact_bound(token if size == 1 else law, size, 1.5, noises=121 if size == 1 else 33)
    return found, exact - float(torch.tensor(lengths)[size - 1].log())


@pytest.mark.parametrize("size", [1, 2])
def test_13_the_bound_of_a_padded_window_is_that_of_its_length_and_of_its_text(size: int) -> None:
    found, exact = _padded(size)
    assert found == pytest.approx(exact, abs=1e-6)


def test_13_twin_padding_that_is_denoised_too_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EmbeddingDiffusion.task

    def task(self: EmbeddingDiffusion, batch: Batch, draws: Draws) -> EmbeddingTask:
        return whole(self, batch | {"scored": torch.ones_like(batch["scored"])}, draws)

    monkeypatch.setattr(EmbeddingDiffusion, "task", task)
    found, exact = _padded(1)
    assert found > exact + 0.1


def test_24_a_perfect_network_costs_nothing() -> None:
    assert embedding.oracle().holds


def test_24_twin_a_network_that_is_told_another_noise_is_not_perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "add_noise", lambda x0, eps, level: x0 + eps)
    assert not embedding.oracle().holds


def test_22_the_noise_under_bf16_has_the_schedules_standard_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _noise_error(monkeypatch) < 1e-3


def test_22_twin_noise_that_was_added_in_bf16_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = network.add_noise
    monkeypatch.setattr(network, "add_noise", lambda x0, eps, level: whole(x0, eps, level).bfloat16().float())
    assert _noise_error(monkeypatch) > 1e-3


def _noise_error(monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest relative error of z's residual z - a·x0, whose noise is known, at any of many times."""
    family, built = embedding.world(torch.tensor([0.5, 0.5]).double(), 1)
    built = built.float()
    seen: list[Tensor] = []
    whole = EmbeddingNetwork.answer

    def answer(self: EmbeddingNetwork, z_BLD: Tensor, *rest: Tensor, **named: Tensor) -> Answer:
        seen.append(z_BLD)
        return whole(self, z_BLD, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingNetwork, "answer", answer)
    draws = Draws(seed=0, scope="x", positions_B=torch.arange(500), group=500)
    task = family.task({"tokens": torch.zeros(500, 2).long(), "scored": torch.ones(500, 1).bool()}, draws)
    with torch.autocast("cpu", torch.bfloat16):
        bound = built(task.targets_BL, task.symbols_BN, task.noise_BLD, task.time_B, task.twice_B, task.real_BN)
    added = (seen[0] - bound.level.a.view(-1, 1, 1) * bound.x0_BLD) / bound.level.s.view(-1, 1, 1)
    return float(((added - task.noise_BLD).abs().max() / task.noise_BLD.abs().max()).detach())


def _texts(request: EmbeddingRequest, count: int = 4000, ends: tuple[float, float] = (-4.0, 6.0)) -> Tensor:
    """How many of each text the sampler writes with the exact network of LAW."""
    family, built = embedding.world(LAW, 2, ends=ends)
    canvases = [Canvas(torch.zeros(2).long(), torch.zeros(2).bool())] * count
    draws = Draws(seed=3, scope="sample", positions_B=torch.arange(count), group=count)
    monkey = Exactly(built)
    page = sampling.Page.of(canvases, family, torch.device("cpu"))
    written = torch.tensor(sampling.write(monkey, page, canvases, request, draws, None))
    return torch.bincount(codes(written, 2), minlength=4)


class Exactly(EmbeddingNetwork):
    """A network in float64, fed with float32 noise."""

    def __init__(self, whole: EmbeddingNetwork) -> None:
        self.__dict__ = whole.__dict__

    def answer(self, z_BLD: Tensor, *rest: Tensor, **named: Tensor) -> Answer:  # type: ignore[override]
        return super().answer(z_BLD.double(), *rest, **named)  # type: ignore[arg-type]


SAMPLERS: dict[str, EmbeddingRequest] = {
    "ddpm": EmbeddingRequest(sampler="ddpm", steps=400),
    "ddim": EmbeddingRequest(sampler="ddim", steps=100, eta=0.0),
    "ddim with noise": EmbeddingRequest(sampler="ddim", steps=200, eta=1.0),
    "dpm++2m": EmbeddingRequest(sampler="dpm++2m", steps=50),
    "dpm++2s": EmbeddingRequest(sampler="dpm++2s", steps=100),
    "heun": EmbeddingRequest(sampler="heun", steps=50),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_the_law_that_its_network_knows(name: str) -> None:
    measured, noise = total_variation(_texts(SAMPLERS[name]), LAW)
    assert measured < 4 * noise, f"{name}: {measured:.4f}"


BROKEN: dict[str, Callable[[], EmbeddingRequest]] = {
    "estimates that are rounded at once": lambda: EmbeddingRequest(sampler="ddim", steps=100, eta=0.0, clamp=True),
    "colder estimates": lambda: EmbeddingRequest(sampler="ddpm", steps=100, temperature=0.5),
    "one step": lambda: EmbeddingRequest(sampler="ddim", steps=1, eta=0.0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_twins_that_draw_from_another_law_are_seen(name: str) -> None:
    measured, noise = total_variation(_texts(BROKEN[name]()), LAW)
    assert measured > 6 * noise, f"{name}: {measured:.4f} against {noise:.4f}"
