"""The loss of embedding diffusion: self-conditioning, padding, lengths, and the training of every weight."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tests.helpers.embedding import (
    LENGTH,
    draws_of,
    new_network,
    random_batch,
    random_network,
    regular_batch,
    small_objective,
)
from tests.helpers.quick import slow_but
from torch import Tensor
from torch.nn import functional as F

from seedfast.families.text.embedding import EmbeddingNetwork
from seedfast.families.text.embedding.task import EmbeddingTask
from seedfast.keys import Draws


def test_tokens_that_are_not_scored_are_given_and_have_no_loss() -> None:
    objective, rows = small_objective(clean_context=0.0, condition_dropout=0.0), random_batch(20)
    rows["scored"][:, :5] = False
    for each in (objective, objective.for_step(0)):
        task = each.task(rows, draws_of(20))
        assert torch.equal(task.condition_BN[:, :5], task.targets_BL[:, :5])
        assert (task.weight_B == LENGTH - 5).all()
        network = random_network(objective)
        total_B = objective.loss(network, task, {}).total_B
        other = replace(task, noise_BLD=task.noise_BLD.index_fill(1, torch.arange(5), 7.0))
        assert torch.equal(objective.loss(network, other, {}).total_B, total_B), "noise at given tokens is not read"


@pytest.mark.parametrize("conditioning", ["prefix", "cross"])
def test_the_estimate_depends_on_the_prompt(conditioning: str) -> None:
    objective = small_objective(prompt=6, prompt_conditioning=conditioning)
    rows, network = random_batch(30, prompt=6), random_network(objective)
    task = objective.task(rows, draws_of(30))
    first_B = objective.loss(network, task, {}).total_B
    other = replace(task, condition_BN=task.condition_BN.index_fill(1, torch.tensor([5]), 3))
    changed_B = (objective.loss(network, other, {}).total_B != first_B)[rows["prompt"][:, 5] != 3]
    assert float(changed_B.float().mean()) > 0.7, "all but examples with almost no noise"


@pytest.mark.parametrize("conditioning", ["prefix", "cross"])
def test_an_absent_prompt_is_finite_and_its_null_condition_is_learned(conditioning: str) -> None:
    objective = small_objective(prompt=4, prompt_conditioning=conditioning)
    network = new_network(objective)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        total_B = objective.loss(network, objective.task(regular_batch(16, prompt=4), draws_of(16)), {}).total_B
        assert torch.isfinite(total_B).all()
        total_B.mean().backward()
        optimizer.step()
    gradient = network.transformer.tokens.weight.grad
    assert gradient is not None
    assert gradient[objective.shape.null_id].any()


# ---- self-conditioning ----------------------------------------------------------------------------------------


def test_no_gradient_flows_through_the_first_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = small_objective()
    network, task = random_network(objective), objective.task(random_batch(6), draws_of(6))
    first: list[Tensor] = []
    original = EmbeddingNetwork._first_estimates

    def remember(self: EmbeddingNetwork, *inputs: Tensor) -> Tensor:
        first.append(original(self, *inputs))  # type: ignore[arg-type]
        return first[-1]

    monkeypatch.setattr(EmbeddingNetwork, "_first_estimates", remember)
    total = objective.loss(network, task, {}).total_B.sum()
    gradients = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
    constant_BLD = first[0].detach()
    monkeypatch.setattr(EmbeddingNetwork, "_first_estimates", lambda *_: constant_BLD)
    total = objective.loss(network, task, {}).total_B.sum()
    again = torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
    for one, other in zip(gradients, again, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_first_estimate_changes_the_second() -> None:
    objective = small_objective()
    network, task = random_network(objective), objective.task(random_batch(6), draws_of(6))
    without = replace(task, self_conditioned_S=None)
    assert (objective.loss(network, task, {}).total_B != objective.loss(network, without, {}).total_B).all()


def test_only_self_conditioned_rows_have_a_first_estimate() -> None:
    objective = small_objective()
    network, task = random_network(objective), objective.task(random_batch(6), draws_of(6))
    rows_S = torch.tensor([1, 4])
    some, none = (replace(task, self_conditioned_S=each) for each in (rows_S, None))
    with_all, with_some, with_none = (objective.loss(network, each, {}).total_B for each in (task, some, none))
    others_S = torch.tensor([0, 2, 3, 5])
    assert torch.allclose(with_some[rows_S], with_all[rows_S], rtol=1e-5)
    assert torch.equal(with_some[others_S], with_none[others_S])


# ---- padding --------------------------------------------------------------------------------------------------


def other_padding(task: EmbeddingTask) -> EmbeddingTask:
    """The same task with other tokens, noise and condition ids at padding."""
    assert task.real_BN is not None
    padding_BL = ~task.real_BN[:, -LENGTH:]
    return replace(
        task,
        targets_BL=torch.where(padding_BL, 3, task.targets_BL),
        noise_BLD=torch.where(padding_BL.unsqueeze(2), 7.0, task.noise_BLD),
        condition_BN=torch.where(~task.real_BN, 5, task.condition_BN),
    )


@pytest.mark.parametrize(("prompt", "conditioning"), [(0, "prefix"), (4, "prefix"), (4, "cross")])
def test_padding_changes_no_bit_of_the_loss_or_its_gradients(prompt: int, conditioning: str) -> None:
    objective = small_objective(prompt=prompt, padded=True, prompt_conditioning=conditioning)
    network = random_network(objective)
    for each in (objective, objective.for_step(0)):
        task = each.task(random_batch(20, prompt, padded=True), draws_of(20))
        assert task.real_BN is not None
        assert not task.real_BN.all()
        assert (task.weight_B <= task.real_BN[:, prompt:].sum(dim=1)).all(), "padding has no weight"
        found = [objective.loss(network, variant, {}) for variant in (task, other_padding(task))]
        assert torch.equal(found[0].total_B, found[1].total_B)
        for name, value in found[0].diagnostics.items():
            assert torch.equal(value, found[1].diagnostics[name]), name
        gradients = [torch.autograd.grad(terms.total_B.sum(), list(network.parameters())) for terms in found]
        for one, two in zip(*gradients, strict=True):
            assert torch.equal(one, two)


def test_twin_attention_without_the_padding_mask_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = small_objective(padded=True)
    network, task = random_network(objective), objective.task(random_batch(20, padded=True), draws_of(20))
    original = EmbeddingNetwork.denoise
    monkeypatch.setattr(
        EmbeddingNetwork, "denoise", lambda self, z, condition, *rest, **_: original(self, z, condition, *rest[:2])
    )
    first, second = (objective.loss(network, each, {}).total_B for each in (task, other_padding(task)))
    assert not torch.equal(first, second)


def test_the_loss_of_a_padded_text_is_that_of_the_text_alone() -> None:
    objective = small_objective(padded=True)
    network, task = random_network(objective), objective.task(random_batch(30, padded=True), draws_of(30))
    total_B = objective.loss(network, task, {}).total_B
    for row in range(30):
        size, rows = int(task.size_B[row]), slice(row, row + 1)
        alone = replace(
            task, weight_B=task.weight_B[rows], time_B=task.time_B[rows], size_B=task.size_B[rows], real_BN=None,
            self_conditioned_S=torch.tensor([0]), targets_BL=task.targets_BL[rows, :size],
            noised_BL=task.noised_BL[rows, :size], condition_BN=task.condition_BN[rows, :size],
            noise_BLD=task.noise_BLD[rows, :size],
        )  # fmt: skip
        found = float(objective.loss(network, alone, {}).total_B[0].detach())
        assert found == pytest.approx(float(total_B[row].detach()), rel=1e-5)


# ---- lengths --------------------------------------------------------------------------------------------------


def test_the_bound_contains_the_likelihood_of_the_length() -> None:
    objective = small_objective(padded=True)
    network = random_network(objective)
    assert network.lengths is not None
    task = objective.task(random_batch(4000, padded=True), draws_of(4000))
    terms = objective.loss(network, task, {})
    assert task.real_BN is not None
    nats_B = F.cross_entropy(network.lengths.expand(4000, -1), task.real_BN.sum(dim=1) - 1, reduction="none")
    assert torch.allclose(terms.diagnostics["length"][0], nats_B.sum(), rtol=1e-5)
    parts = [float(terms.diagnostics[name][0]) for name in ("reconstruction", "diffusion", "prior", "length")]
    assert float(terms.total_B.detach().sum()) == pytest.approx(sum(parts), rel=1e-5)


@pytest.mark.parametrize("loss", ["bound", "weighted"])
def test_lengths_are_learned_with_every_loss(loss: str) -> None:
    objective = small_objective(padded=True, schedule="linear", loss=loss)
    network = random_network(objective)
    assert network.lengths is not None
    task = objective.task(random_batch(20, padded=True), draws_of(20))
    objective.loss(network, task, {}).total_B.sum().backward()
    assert network.lengths.grad is not None
    assert network.lengths.grad.abs().sum() > 0


# ---- embeddings and training ----------------------------------------------------------------------------------


def test_embeddings_can_neither_outgrow_the_noise_nor_vanish_in_it() -> None:
    network = new_network(small_objective())
    for scale in (1e-4, 1.0, 1e4):
        with torch.no_grad():
            network.vectors.weight.mul_(scale)
        assert torch.allclose(network.embeddings().square().mean(dim=1), torch.ones(9), rtol=1e-4)


@pytest.mark.parametrize("conditioning", ["prefix", "cross"])
@pytest.mark.parametrize("prediction", ["tokens", "x0", "eps", "v"])
def test_every_weight_is_trained(conditioning: str, prediction: str) -> None:
    objective = small_objective(prompt=4, prompt_conditioning=conditioning, prediction=prediction).for_step(0)
    network = new_network(objective)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    rows = regular_batch(64, prompt=4)
    rows["prompt_real"][::2] = True
    for _ in range(3):  # behind gates that start at zero, gradients come one step later
        optimizer.zero_grad()
        objective.loss(network, objective.task(rows, draws_of(64)), {}).total_B.mean().backward()
        optimizer.step()
    untrained = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert untrained == []


QUICK = [
    ("learned", "tokens", "bound"),
    ("linear", "x0", "weighted"),
    ("cosine", "eps", "weighted"),
    ("linear", "v", "bound"),
]
"""Every schedule, prediction and loss."""


@pytest.mark.parametrize(
    ("schedule", "prediction", "loss"),
    slow_but(
        QUICK,
        (
            each
            for each in product(("learned", "linear", "cosine"), ("tokens", "x0", "eps", "v"), ("bound", "weighted"))
            if each[::2] != ("learned", "weighted")
        ),
    ),
)
def test_training_lowers_the_bound_with_every_objective(schedule: str, prediction: str, loss: str) -> None:
    objective = small_objective(schedule=schedule, prediction=prediction, loss=loss, self_conditioning=0.5)
    network, training = new_network(objective), objective.for_step(0)
    steps, lr = (60, 0.01) if loss == "weighted" else (25, 0.02)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    rows = regular_batch(64)

    def measured() -> float:
        with torch.no_grad():
            terms = objective.loss(network, objective.task(regular_batch(256), draws_of(256, "eval")), {})
        total, weight = terms.diagnostics["nelbo"] if loss == "weighted" else (terms.total_B.sum(), 256 * 12)
        return float(total) / float(weight)

    before = measured()
    for step in range(steps):
        draws = Draws(seed=1, scope="train", positions_B=torch.arange(step * 64, step * 64 + 64), group=64)
        optimizer.zero_grad()
        task = training.task(rows, draws)
        (training.loss(network, task, {}).total_B.sum() / task.weight_B.sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert measured() < 0.98 * before  # with the same texts, times and noises
