"""Self-critical training: REINFORCE on CIDEr-D, with the other samples' mean reward as the baseline."""

from typing import Any

import pytest
import torch
from tests.helpers.captions import build, nats_by_hand, task
from torch.nn import functional as F

from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.families.caption import self_critical
from seedfast.families.caption.metrics import words


@pytest.fixture
def samples(corpus: CaptionCorpus, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The captions that self-critical training has sampled, three of each image; the first is made a reference.

    The network of bytes writes no words of the references, so all rewards would be zero.
    """
    sampled: list[list[int]] = []
    real = self_critical.nucleus_captions

    def with_a_reference(*arguments: Any, **options: Any) -> list[list[int]]:
        sampled[:] = real(*arguments, **options)
        for row in range(0, len(sampled), 3):
            sampled[row] = corpus.train.tokens[row // 3][0].tolist()
        return sampled

    monkeypatch.setattr(self_critical, "nucleus_captions", with_a_reference)
    return sampled


def test_the_loss_is_reinforce_with_the_mean_of_the_other_samples_as_baseline(
    corpus: CaptionCorpus, samples: list[list[int]]
) -> None:
    validation, _, network = build(corpus, self_critical=5, self_critical_samples=3)
    objective, tokenizer = validation.for_step(5), corpus.assets.tokenizer
    network.train()
    asked = task(objective, corpus, [0, 1])
    assert asked.weight_B.tolist() == [3, 3]
    terms = objective.loss(network, asked, {})
    expected = []
    for i in range(2):
        known = [words(each) for each in corpus.train.captions[i]]
        assert objective.scorer is not None
        rewards = [objective.scorer(words(tokenizer.decode(tokens)), known) for tokens in samples[3 * i : 3 * i + 3]]
        assert max(rewards) > 0
        total = torch.zeros(())
        for k, tokens in enumerate(samples[3 * i : 3 * i + 3]):
            baseline = (sum(rewards) - rewards[k]) / 2
            targets = [*tokens, tokenizer.end_of_text][: corpus.assets.context]
            inputs = torch.tensor([[tokenizer.end_of_text, *targets[:-1]]])
            logits = network(inputs, pixels_BCSS=asked.images[i : i + 1])[0]
            total = total + (rewards[k] - baseline) * F.cross_entropy(logits, torch.tensor(targets), reduction="sum")
        expected.append(total)
    assert torch.allclose(terms.total_B, torch.stack(expected), rtol=1e-4)
    # A step against this gradient makes the rewarded caption likelier.
    likelihood = -nats_by_hand(network, corpus, 0).detach()
    terms.total_B.sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert -nats_by_hand(network, corpus, 0) > likelihood


def test_it_begins_at_its_step_and_validation_stays_the_likelihood(corpus: CaptionCorpus) -> None:
    objective, _, _ = build(corpus, self_critical=5, self_critical_samples=3)
    phases = {step: objective.for_step(step).phase for step in (0, 4, 5, 99)}
    assert phases == {0: "likelihood", 4: "likelihood", 5: "self-critical", 99: "self-critical"}
    assert objective.phase == "validation"
    assert task(objective.for_step(4), corpus, [0]).u_BKL is None
    uniforms = task(objective.for_step(5), corpus, [0, 1]).u_BKL
    assert uniforms is not None
    assert uniforms.shape == (2, 3, 24)


def test_sampling_leaves_the_network_in_training_mode(corpus: CaptionCorpus) -> None:
    validation, _, network = build(corpus, self_critical=0, self_critical_samples=2)
    objective = validation.for_step(0)
    objective.loss(network.train(), task(objective, corpus, [0]), {})
    assert network.training
