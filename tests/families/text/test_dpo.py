"""Direct preference optimization: its loss and gradient in closed form, and its reference."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import preferences, tiny_models
from torch import Tensor, nn

from seedfast.data.text.config import TextData
from seedfast.families.text.dpo import DPO, preference_loss
from seedfast.keys import Draws
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM

LORA = Adapter(kind="lora", rank=2)
BETA = 0.3


class Pairs:
    """Two pairs, as a task and as texts, with a network whose weights have moved away from the reference."""

    def __init__(self, folder: Path, adapter: Adapter) -> None:
        path = preferences.write(folder / "pairs.jsonl", preferences.pairs(30))
        corpus = TextData(path=str(path), tokenizer=str(tiny_models.folder(folder / "gpt2")), context=48).load()
        config = PretrainedLM(path=str(folder / "gpt2"), adapter=adapter).located()
        self.objective = DPO(beta=BETA).build(corpus.assets).objective
        self.network: Any = self.objective.network(config)
        config.initialise(self.network)
        self.batch = corpus.train.batch([0, 1])
        self.task = self.objective.task(self.batch, Draws(seed=1, scope="test", positions_B=torch.arange(2), group=2))
        self.base = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(folder / "gpt2", dtype=torch.float32)

    def move(self) -> None:
        """Change the trained weights a little."""
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(len(name))
                )

    def loss(self) -> Any:
        return self.objective.loss(self.network.train(), self.task, {})

    def log_probs(self, model: nn.Module, *, with_prompt: bool = False) -> Tensor:
        """log π of each answer under a model of transformers, one after the other and without padding, [2, 2]."""
        found = []
        for pair in range(2):
            for place in range(2):
                real = self.batch["documents"][pair, place] == 0
                tokens = self.batch["tokens"][pair, place][real]
                scored = self.batch["scored"][pair, place][real[1:]]
                logits = model(tokens[None, :-1]).logits[0].log_softmax(-1)
                each = logits.gather(1, tokens[1:, None])[:, 0]
                found.append(each.sum() if with_prompt else each[scored].sum())
        return torch.stack(found).view(2, 2)


@pytest.fixture(params=[Adapter(), LORA], ids=["full", "lora"])
def pairs(request: Any, tmp_path: Path) -> Pairs:
    return Pairs(tmp_path, request.param)


def test_training_starts_at_log_two(pairs: Pairs) -> None:
    terms = pairs.loss()
    assert terms.total_B.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)
    margin, weight = terms.diagnostics["reward_margin"].tolist()
    assert (margin, weight) == (0.0, 2.0)


def test_the_loss_is_that_of_equation_7(pairs: Pairs) -> None:
    pairs.move()
    policy, reference = pairs.log_probs(pairs.network.model), pairs.log_probs(pairs.base)
    rewards = BETA * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    terms = pairs.loss()
    torch.testing.assert_close(terms.total_B, -torch.log(1 / (1 + torch.exp(-margin))), rtol=1e-4, atol=1e-5)
    expected = {
        "chosen_reward": rewards[:, 0], "rejected_reward": rewards[:, 1], "reward_margin": margin,
        "reward_accuracy": (margin > 0).float(), "chosen_log_prob": policy[:, 0], "rejected_log_prob": policy[:, 1],
    }  # fmt: skip
    assert terms.diagnostics.keys() == expected.keys()
    for name, values in expected.items():
        assert terms.diagnostics[name].tolist() == pytest.approx(
            [float(values.detach().sum()), 2.0], rel=1e-4, abs=1e-4
        ), name
    without_reference = policy[:, 0] - policy[:, 1]
    for twin in (BETA * without_reference, -margin, margin / BETA):
        assert (terms.total_B - preference_loss(twin)).abs().max() > 1e-2, "a twin is not seen"
    whole = BETA * (
        pairs.log_probs(pairs.network.model, with_prompt=True) - pairs.log_probs(pairs.base, with_prompt=True)
    )
    torch.testing.assert_close(whole[:, 0] - whole[:, 1], margin, rtol=1e-3, atol=1e-4)  # the prompt cancels


def test_the_gradient_moves_both_answers_by_the_doubt_of_the_reward(pairs: Pairs) -> None:
    """∇L = -β σ(-margin) (∇ log π(chosen) - ∇ log π(rejected)), section 4 of the paper."""
    pairs.move()
    trained = [parameter for parameter in pairs.network.parameters() if parameter.requires_grad]
    terms = pairs.loss()
    gradient = torch.autograd.grad(terms.total_B.sum(), trained)
    policy = pairs.log_probs(pairs.network.model)
    rewards = BETA * (policy - pairs.log_probs(pairs.base)).detach()
    doubt = torch.sigmoid(rewards[:, 1] - rewards[:, 0])
    expected = torch.autograd.grad((-BETA * doubt * (policy[:, 0] - policy[:, 1])).sum(), trained, retain_graph=True)
    twin = torch.autograd.grad((-BETA * (1 - doubt) * (policy[:, 0] - policy[:, 1])).sum(), trained)
    scale = max(float(g.abs().max()) for g in expected)
    for got, right in zip(gradient, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-4 * scale)
    assert max(float((a - b).abs().max()) for a, b in zip(gradient, twin, strict=True)) > 1e-2 * scale


def test_two_answers_of_one_token_each_in_closed_form() -> None:
    """π = softmax(z), π_ref uniform: the margin is β (z_chosen - z_rejected)."""
    z = torch.tensor([0.7, -0.4], requires_grad=True)
    margin = BETA * ((z.log_softmax(0) - math.log(0.5))[:1] - (z.log_softmax(0) - math.log(0.5))[1:])
    loss = preference_loss(margin)
    loss.backward()
    doubt = 1 / (1 + math.exp(BETA * 1.1))
    assert float(loss.detach()) == pytest.approx(-math.log(1 - doubt), rel=1e-6)
    assert z.grad is not None
    assert z.grad.tolist() == pytest.approx([-BETA * doubt, BETA * doubt], rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_is_the_expected_loss_of_labels_that_may_be_wrong(smoothing: float) -> None:
    margins = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    right, wrong = preference_loss(margins), preference_loss(-margins)
    torch.testing.assert_close(preference_loss(margins, smoothing), (1 - smoothing) * right + smoothing * wrong)
    if smoothing:  # its minimum is where σ(margin) = 1 - ε, not at infinity
        best = torch.tensor(math.log((1 - smoothing) / smoothing), dtype=torch.float64, requires_grad=True)
        preference_loss(best, smoothing).backward()
        assert best.grad is not None
        assert abs(float(best.grad)) < 1e-12


def test_padding_changes_no_answer(pairs: Pairs) -> None:
    """Answers are as long as the longest of the batch: a longer batch gives the same losses."""
    pairs.move()
    padded = {name: torch.nn.functional.pad(tensor, (0, 5)) for name, tensor in pairs.batch.items()}
    padded["documents"][..., -5:] = 1
    draws = Draws(seed=1, scope="test", positions_B=torch.arange(2), group=2)
    longer = pairs.objective.loss(pairs.network, pairs.objective.task(padded, draws), {})
    torch.testing.assert_close(longer.total_B, pairs.loss().total_B, rtol=1e-5, atol=1e-6)


def test_a_call_of_the_reference_leaves_the_network_as_it_was(pairs: Pairs) -> None:
    before = [(p.requires_grad, m.training) for m in pairs.network.modules() for p in m.parameters(recurse=False)]
    ids = torch.arange(12)[None]
    pairs.move()
    theirs = pairs.base(ids).logits
    assert not torch.allclose(pairs.network.eval()(ids), theirs, atol=1e-3)
    pairs.network.train()
    found = pairs.network(ids, reference=True)
    torch.testing.assert_close(found, theirs)
    assert not found.requires_grad
    assert before == [
        (p.requires_grad, m.training) for m in pairs.network.modules() for p in m.parameters(recurse=False)
    ]


def test_label_smoothing_of_a_half_is_refused() -> None:
    from seedfast.errors import UserError

    with pytest.raises(UserError, match=r"label_smoothing"):
        replace(DPO(), label_smoothing=0.5)
