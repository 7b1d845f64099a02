"""Identities of embedding diffusion, its samplers on a known distribution, and broken twins that must fail.

docs/identities.md: embedding-nelbo, low-precision, oracle. The bound itself is checked in test_every_identity.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.families.family import Terms
from seedfast.families.generator import State
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.embedding import EmbeddingNetwork, EmbeddingObjective, network
from seedfast.families.text.embedding import noise_schedule as schedules
from seedfast.families.text.embedding.network import Denoised
from seedfast.families.text.embedding.sampling import CanvasBatch, EmbeddingRequest, denoise_canvases
from seedfast.families.text.embedding.task import EmbeddingTask
from seedfast.families.text.request import Canvas
from seedfast.keys import Draws
from seedfast.verify.identities import embedding
from seedfast.verify.identities.check import total_variation
from seedfast.verify.identities.toys import codes

PROBABILITIES = torch.tensor([0.45, 0.15, 0.1, 0.3]).double()


class WithoutPrior(EmbeddingObjective):
    """Its bound lacks the prior term."""

    def loss(self, network: nn.Module, task: EmbeddingTask, state: State) -> Terms:
        terms = super().loss(network, task, state)
        prior = terms.diagnostics["prior"][0] / terms.diagnostics["prior"][1]
        return replace(terms, total_B=terms.total_B - prior * task.weight_B)


def test_twin_without_the_prior_fails() -> None:
    assert not embedding.variational_bound(WithoutPrior).holds


def test_twin_a_decoder_without_token_frequencies_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EmbeddingNetwork, "decode", lambda self, z, level: self.log_likelihood(z, level).log_softmax(dim=-1)
    )
    assert not embedding.variational_bound().holds


class WrongSlope(schedules.LearnedSchedule):
    """Its slope is not the derivative of its γ."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        gamma_B, slope_B = super().forward(time_B)
        return gamma_B, slope_B * 1.001


class WrongDensity(schedules.LearnedSchedule):
    """Its slope is that of a uniform density of noise levels, whatever their density."""

    def forward(self, time_B: Tensor) -> tuple[Tensor, Tensor]:
        gamma_B, _ = super().forward(time_B)
        return gamma_B, (self.ends[1] - self.ends[0]).double().expand_as(gamma_B)


@pytest.mark.parametrize("twin", [WrongSlope, WrongDensity])
def test_twins_with_another_weight_of_the_error_fail(
    twin: type[schedules.LearnedSchedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "build_schedule", lambda kind: twin())
    assert not embedding.variational_bound().holds


def test_twin_a_network_that_ignores_the_noisy_vector_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingNetwork, "log_likelihood", lambda self, z, level: 0 * z @ self.embeddings().T)
    assert not embedding.variational_bound().holds


def _padded(size: int, lengths: tuple[float, float] = (0.3, 0.7)) -> tuple[float, float]:
    """The expected loss of texts of `size` tokens in windows of two, and the bound with the exact posterior.

    lengths: the probabilities of one and of two tokens.
    """
    token = torch.tensor([0.7, 0.3]).double()
    p_N = torch.outer(token, token).flatten()  # independent tokens, for which the decoder is exact
    objective, built = embedding.exact_world(p_N, 2, ends=(-1.0, 1.5), padded=True)
    assert built.lengths is not None
    built.lengths.data.copy_(torch.tensor(lengths).log())
    real_L = torch.arange(2) < size
    found = embedding.expected_loss(objective, built, p_N, 2, noises=33, times=2, real_L=real_L)
    exact = embedding.exact_bound(token if size == 1 else p_N, size, 1.5, noises=121 if size == 1 else 33)
    return found, exact - float(torch.tensor(lengths)[size - 1].log())


@pytest.mark.parametrize("size", [1, 2])
def test_the_bound_of_a_padded_window_is_that_of_its_length_and_its_text(size: int) -> None:
    found, exact = _padded(size)
    assert found == pytest.approx(exact, abs=1e-6)


def test_twin_padding_with_a_loss_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = EmbeddingObjective.task

    def task(self: EmbeddingObjective, batch: Batch, draws: Draws) -> EmbeddingTask:
        return original(self, batch | {"scored": torch.ones_like(batch["scored"])}, draws)

    monkeypatch.setattr(EmbeddingObjective, "task", task)
    found, exact = _padded(1)
    assert found > exact + 0.1


def test_twin_another_noise_level_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "add_noise", lambda x0, eps, level: x0 + eps)
    assert not embedding.oracle().holds


def test_the_noise_under_bf16_has_the_standard_deviation_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _noise_error(monkeypatch) < 1e-3


def test_twin_noise_added_in_bf16_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = network.add_noise
    monkeypatch.setattr(network, "add_noise", lambda x0, eps, level: original(x0, eps, level).bfloat16().float())
    assert _noise_error(monkeypatch) > 1e-3


def _noise_error(monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest relative error of the noise in z, (z - a·x0) / s, at many times."""
    objective, built = embedding.exact_world(torch.tensor([0.5, 0.5]).double(), 1)
    built = built.float()
    noisy: list[Tensor] = []
    original = EmbeddingNetwork.denoise

    def denoise(self: EmbeddingNetwork, z_BLD: Tensor, *rest: Tensor, **named: Tensor) -> Denoised:
        noisy.append(z_BLD)
        return original(self, z_BLD, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingNetwork, "denoise", denoise)
    draws = Draws(seed=0, scope="x", positions_B=torch.arange(500), group=500)
    task = objective.task({"tokens": torch.zeros(500, 2).long(), "scored": torch.ones(500, 1).bool()}, draws)
    with torch.autocast("cpu", torch.bfloat16):
        output = built(task)
    added = (noisy[0] - output.level.a.view(-1, 1, 1) * output.x0_BLD) / output.level.s.view(-1, 1, 1)
    return float(((added - task.noise_BLD).abs().max() / task.noise_BLD.abs().max()).detach())


def _sampled(request: EmbeddingRequest, count: int = 4000, ends: tuple[float, float] = (-4.0, 6.0)) -> Tensor:
    """The number of samples of each text, with the network that knows PROBABILITIES."""
    objective, built = embedding.exact_world(PROBABILITIES, 2, ends=ends)
    canvases = [Canvas(torch.zeros(2).long(), torch.zeros(2).bool())] * count
    draws = Draws(seed=3, scope="sample", positions_B=torch.arange(count), group=count)
    decoding = Decoding(network=Exactly(built), request=request, draws=draws)
    batch = CanvasBatch.of(canvases, built.shape, objective.assets.tokenizer, decoding.device)
    return torch.bincount(codes(torch.tensor(denoise_canvases(decoding, batch)), 2), minlength=4)


class Exactly(EmbeddingNetwork):
    """A network in float64 that takes float32 noise."""

    def __init__(self, original: EmbeddingNetwork) -> None:
        self.__dict__ = original.__dict__

    def denoise(self, z_BLD: Tensor, *rest: Tensor, **named: Tensor) -> Denoised:  # type: ignore[override]
        return super().denoise(z_BLD.double(), *rest, **named)  # type: ignore[arg-type]


SAMPLERS: dict[str, EmbeddingRequest] = {
    "ddpm": EmbeddingRequest(sampler="ddpm", steps=200),
    "ddim": EmbeddingRequest(sampler="ddim", steps=100, eta=0.0),
    "ddim with noise": EmbeddingRequest(sampler="ddim", steps=100, eta=1.0),
    "dpm++2m": EmbeddingRequest(sampler="dpm++2m", steps=50),
    "dpm++2s": EmbeddingRequest(sampler="dpm++2s", steps=100),
    "heun": EmbeddingRequest(sampler="heun", steps=50),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_the_distribution_of_its_network(name: str) -> None:
    measured, noise = total_variation(_sampled(SAMPLERS[name]), PROBABILITIES)
    assert measured < 4 * noise, f"{name}: {measured:.4f}"


BROKEN: dict[str, Callable[[], EmbeddingRequest]] = {
    "estimates that are clamped at once": lambda: EmbeddingRequest(sampler="ddim", steps=100, eta=0.0, clamp=True),
    "colder estimates": lambda: EmbeddingRequest(sampler="ddpm", steps=100, temperature=0.5),
    "one step": lambda: EmbeddingRequest(sampler="ddim", steps=1, eta=0.0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_twins_that_draw_from_another_distribution_fail(name: str) -> None:
    measured, noise = total_variation(_sampled(BROKEN[name]()), PROBABILITIES)
    assert measured > 6 * noise, f"{name}: {measured:.4f} against {noise:.4f}"
