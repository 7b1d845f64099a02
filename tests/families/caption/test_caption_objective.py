"""The captioning objective in closed form, on small networks."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.helpers.captions import build, draws, nats_by_hand, task

from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.errors import UserError
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.generator import image_batch
from seedfast.families.caption.metrics import words
from seedfast.families.caption.objective import CaptionObjective
from seedfast.families.caption.request import CaptionRequest
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.validate import validate


def test_the_loss_is_the_likelihood_of_every_caption_and_its_end(corpus: CaptionCorpus) -> None:
    objective, _, network = build(corpus, captions_per_image=None)
    ids = [0, 3, 7, 5]
    asked = task(objective, corpus, ids)
    found = objective.loss(network.train(), asked, {}).total_B
    expected = torch.stack([nats_by_hand(network, corpus, i) for i in ids])
    assert torch.allclose(found, expected, rtol=1e-5)
    tokens = [sum(min(len(t) + 1, 24) for t in corpus.train.tokens[i]) for i in ids]
    assert asked.weight_B.tolist() == tokens


def test_twin_a_loss_without_the_shift_is_detected(corpus: CaptionCorpus) -> None:
    objective, _, network = build(corpus, captions_per_image=None)
    found = objective.loss(network.train(), task(objective, corpus, [0]), {}).total_B
    assert not torch.allclose(found[0], nats_by_hand(network, corpus, 0, shift=1), rtol=1e-3)


def test_a_caption_begins_after_end_of_text_and_only_an_uncut_one_ends_with_it(corpus: CaptionCorpus) -> None:
    long = max(range(len(corpus.train)), key=lambda i: max(map(len, corpus.train.tokens[i])))
    end = corpus.assets.tokenizer.end_of_text
    for context, cut in ((24, False), (6, True)):
        objective = CaptionObjective(Captioning(captions_per_image=None), replace(corpus.assets, context=context))
        asked = task(objective, corpus, [long])
        assert bool((asked.inputs_PL[:, 0] == end).all())
        for row in range(len(asked.inputs_PL)):
            scored = asked.targets_PL[row][asked.loss_mask_PL[row]]
            assert (int(scored[-1]) == end) != cut
            assert end not in scored[:-1].tolist()


def test_the_index_tensors_are_those_of_the_mask(corpus: CaptionCorpus) -> None:
    objective, _, _ = build(corpus, captions_per_image=None)
    asked = task(objective, corpus, [0, 3, 7])
    assert torch.equal(asked.where_N, asked.loss_mask_PL.flatten().nonzero()[:, 0])
    assert torch.equal(asked.targets_N, asked.targets_PL[asked.loss_mask_PL])
    assert torch.equal(asked.image_N, asked.image_P[:, None].expand_as(asked.targets_PL)[asked.loss_mask_PL])


def test_the_chosen_captions_do_not_depend_on_the_batch(corpus: CaptionCorpus) -> None:
    objective = build(corpus, captions_per_image=1)[0].for_step(0)
    ids = list(range(9))
    whole = task(objective, corpus, ids)
    parts = [task(objective, corpus, [i], start=i) for i in ids]
    for i, part in enumerate(parts):
        own = whole.targets_PL[i][whole.loss_mask_PL[i]]
        assert torch.equal(own, part.targets_PL[0][part.loss_mask_PL[0]])
    chosen = {tuple(task(objective, corpus, [2], start=n).targets_PL[0].tolist()) for n in range(20)}
    # Image 2 has several captions, and each is chosen at some step.
    assert len(chosen) == len(corpus.train.captions[2]) or len(corpus.train.captions[2]) == 1


def test_every_patch_reaches_the_decoder(corpus: CaptionCorpus) -> None:
    _, _, network = build(corpus)
    memory_BMU = network.encode(corpus.train.pixels([0])).detach().requires_grad_()
    assert memory_BMU.shape[1] == 16
    network(torch.tensor([[256, 97, 98]]), memory_BMU=memory_BMU)[0, -1].square().sum().backward()
    assert memory_BMU.grad is not None
    assert float(memory_BMU.grad.norm(dim=-1).min()) > 0


def test_labels_are_smoothed_only_in_training(corpus: CaptionCorpus) -> None:
    objective, _, network = build(corpus, captions_per_image=None, label_smoothing=0.3)
    training = objective.for_step(0)
    asked = task(training, corpus, [1])
    plain = objective.loss(network.train(), asked, {}).total_B
    smooth = training.loss(network, asked, {}).total_B
    where = asked.loss_mask_PL.flatten()
    logits_PLV = network(asked.inputs_PL, pixels_BCSS=asked.images, image_P=asked.image_P)
    log_q = logits_PLV.flatten(0, 1)[where].log_softmax(-1)
    assert torch.allclose(smooth, 0.7 * plain + 0.3 * -log_q.mean(dim=-1).sum(), rtol=1e-5)


def test_validation_measures_greedy_captions(corpus: CaptionCorpus) -> None:
    objective, generator, network = build(corpus, metrics_every_n_images=1)
    found = objective.metrics(network.eval(), task(objective, corpus, [0, 1, 2]), {})
    request = CaptionRequest(image_batch=image_batch(corpus.train, [0, 1, 2]), decoding="greedy")
    samples = generator.generate(network, request, draws(3), {})
    texts = [captions[0].text for captions in samples.captions]
    assert objective.scorer is not None
    references = [[words(each) for each in corpus.train.captions[i]] for i in range(3)]
    rewards = [objective.scorer(words(text), known) for text, known in zip(texts, references, strict=True)]
    assert float(found["cider"][0]) == pytest.approx(sum(rewards))
    assert found["exact_match"].tolist() == [
        sum(words(text) in known for text, known in zip(texts, references, strict=True)), 3
    ]  # fmt: skip


def test_greedy_captions_are_measured_for_every_nth_image_and_not_in_training(corpus: CaptionCorpus) -> None:
    objective, _, network = build(corpus, metrics_every_n_images=3)
    asked = task(objective, corpus, [0, 1, 3, 4, 6])
    assert asked.metric_rows_B is not None
    assert asked.metric_rows_B.tolist() == [0, 2, 4]
    assert len(asked.references) == 3
    assert objective.metrics(network.eval(), asked, {})["exact_match"][1] == 3
    assert set(objective.loss(network, asked, {}).diagnostics) == {"accuracy"}, "the loss decodes nothing"
    assert task(objective, corpus, [1, 2]).metric_rows_B is None
    assert task(objective.for_step(0), corpus, [0, 3]).metric_rows_B is None


def test_validation_is_the_mean_over_all_tokens_for_every_batch_size(corpus: CaptionCorpus) -> None:
    objective, _, network = build(corpus, metrics_every_n_images=None)
    network.eval()
    ids = list(range(len(corpus.validation)))
    scores = [
        validate(
            objective, network, {}, corpus.validation, ids, seed=1, batch_size=size, draws=1,
            distributed=DistributedContext(torch.device("cpu")),
        ).loss
        for size in (1, 3, len(ids))
    ]  # fmt: skip
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-6)
    asked = objective.task(
        corpus.validation.batch(ids), Draws(seed=1, scope="eval", positions_B=torch.arange(len(ids)), group=len(ids))
    )
    nats_B = objective.loss(network, asked, {}).total_B
    assert scores[0] == pytest.approx(float((nats_B.sum() / asked.weight_B.sum()).detach()), rel=1e-6)
    mean_of_means = float((nats_B / asked.weight_B).mean().detach())
    assert scores[0] != pytest.approx(mean_of_means, rel=1e-4), "the captions differ in length: the twin is detected"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions_per_image": 0}, "captions_per_image must be at least 1, not 0"),
        ({"self_critical_samples": 3}, r"self_critical_samples \(3\) has no effect without objective.self_critical"),
        ({"self_critical": 0, "self_critical_samples": 1}, "self_critical_samples must be at least 2, not 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), not 1.0"),
        ({"metrics_every_n_images": 0}, "metrics_every_n_images must be at least 1, not 0"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Captioning(**options)  # type: ignore[arg-type]


def test_importing_data_a_captioner_and_the_training_imports_no_optional_package() -> None:
    code = (
        "import sys, seedfast.data.text.config, seedfast.data.caption.config\n"
        "import seedfast.families.caption.family, seedfast.loop.train\n"
        "optional = ('transformers', 'huggingface_hub', 'wandb', 'datasets', 'pyarrow')\n"
        "print([name for name in optional if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "[]", result.stderr
