"""The captioning family in closed form, on networks small enough to be looked through."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import captions as small_captions
from torch import Tensor
from torch.nn import functional as F

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.errors import UserError
from seedfast.families.caption.family import CaptionFamily, Captioning, CaptionTask, seen_of
from seedfast.families.caption.metrics import cider, words
from seedfast.families.caption.request import CaptionRequest
from seedfast.keys import Draws
from seedfast.models.attention import CrossAttention
from seedfast.models.captioner import Captioner, CaptionerNetwork
from seedfast.models.transformer import Transformer
from seedfast.models.vit import ViT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CaptionCorpus:
    nouns, verbs = ["cat", "dog", "bird", "fox"], ["sees", "likes", "hears"]
    text = "".join(f"the {nouns[i % 4]} {verbs[i * 7 % 3]} the {nouns[i * 5 % 3]} {i % 10}.\n" for i in range(500))
    path = small_captions.write(tmp_path_factory.mktemp("captions"), text)
    return CaptionData(path=str(path), tokenizer="bytes", context=24, size=8, channels=1, validation=0.25).load()


def built(corpus: CaptionCorpus, **options: Any) -> tuple[CaptionFamily, CaptionerNetwork]:
    family = Captioning(**options).build(corpus.assets)
    model = Captioner(vit=ViT(patch=2, layers=1, heads=2, width=16), decoder=Transformer(layers=2, heads=2, width=16))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = family.network(model)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return family, network


def draws(count: int, start: int = 0) -> Draws:
    return Draws(seed=1, scope="train", positions_B=torch.arange(start, start + count), group=count)


def task(family: CaptionFamily, corpus: CaptionCorpus, ids: list[int], start: int = 0) -> CaptionTask:
    return family.task(corpus.train.batch(ids), draws(len(ids), start))


def by_hand(family: CaptionFamily, network: CaptionerNetwork, corpus: CaptionCorpus, i: int, shift: int = 0) -> Tensor:
    """-Σ log q of all captions of an image, one after the other, without padding. shift: a twin's."""
    total = torch.zeros(())
    end = family.end
    for caption in corpus.train.tokens[i]:  # type: ignore[attr-defined]
        tokens = [end, *caption.tolist(), end][: family.assets.context + 1]
        log_q_LV = network(
            torch.tensor([tokens[: -1 + shift or None]]),
            pixels_BCSS=corpus.train.pixels([i]),  # type: ignore[attr-defined]
        )[0].log_softmax(dim=-1)
        right_L = torch.tensor(tokens[1 - shift :])
        total = total - log_q_LV.gather(1, right_L[:, None]).sum()
    return total


def test_the_loss_is_the_likelihood_of_every_caption_and_its_end(corpus: CaptionCorpus) -> None:
    family, network = built(corpus, captions=None)
    ids = [0, 3, 7, 5]
    asked = task(family, corpus, ids)
    found = family.loss(network.train(), asked, {}).total_B
    expected = torch.stack([by_hand(family, network, corpus, i) for i in ids])
    assert torch.allclose(found, expected, rtol=1e-5)
    tokens = [sum(min(len(t) + 1, 24) for t in corpus.train.tokens[i]) for i in ids]  # type: ignore[attr-defined]
    assert asked.weight_B.tolist() == tokens


def test_twin_a_loss_that_is_not_shifted_is_seen(corpus: CaptionCorpus) -> None:
    family, network = built(corpus, captions=None)
    found = family.loss(network.train(), task(family, corpus, [0]), {}).total_B
    assert not torch.allclose(found[0], by_hand(family, network, corpus, 0, shift=1), rtol=1e-3)


def test_specials_are_the_tokenizers_and_a_caption_that_was_cut_does_not_end(corpus: CaptionCorpus) -> None:
    family, _ = built(corpus, captions=None)
    long = max(range(len(corpus.train)), key=lambda i: max(map(len, corpus.train.tokens[i])))  # type: ignore[attr-defined]
    short = CaptionFamily(Captioning(captions=None), replace(corpus.assets, context=6))
    for each, cut in ((family, False), (short, True)):
        asked = task(each, corpus, [long])
        assert bool((asked.inputs_PL[:, 0] == corpus.assets.tokenizer.end_of_text).all())
        for row in range(len(asked.inputs_PL)):
            scored = asked.targets_PL[row][asked.scored_PL[row]]
            assert (int(scored[-1]) == family.end) != cut
            assert family.end not in scored[:-1].tolist()


def test_which_captions_count_does_not_depend_on_the_batch(corpus: CaptionCorpus) -> None:
    family = built(corpus, captions=1)[0].at(0)
    ids = list(range(9))
    whole = task(family, corpus, ids)
    parts = [task(family, corpus, [i], start=i) for i in ids]
    for i, part in enumerate(parts):
        own = whole.targets_PL[i][whole.scored_PL[i]]
        assert torch.equal(own, part.targets_PL[0][part.scored_PL[0]])
    seen = {
        tuple(task(family, corpus, [2], start=n).targets_PL[0].tolist()) for n in range(20)
    }  # image 2 has several captions, and each has its turn
    assert len(seen) == len(corpus.train.captions[2]) or len(corpus.train.captions[2]) == 1  # type: ignore[attr-defined]


def test_every_patch_reaches_the_decoder(corpus: CaptionCorpus) -> None:
    _, network = built(corpus)
    memory_BMU = network.encode(corpus.train.pixels([0])).detach().requires_grad_()  # type: ignore[attr-defined]
    assert memory_BMU.shape[1] == 16
    network(torch.tensor([[256, 97, 98]]), memory_BMU=memory_BMU)[0, -1].square().sum().backward()
    assert memory_BMU.grad is not None
    assert float(memory_BMU.grad.norm(dim=-1).min()) > 0


def test_label_smoothing_is_only_in_training(corpus: CaptionCorpus) -> None:
    family, network = built(corpus, captions=None, label_smoothing=0.3)
    trained = family.at(0)
    asked = task(trained, corpus, [1])
    plain = family.loss(network.train(), asked, {}).total_B
    smooth = trained.loss(network, asked, {}).total_B
    where = asked.scored_PL.flatten()
    log_q = network(asked.inputs_PL, pixels_BCSS=asked.seen, image_P=asked.image_P).flatten(0, 1)[where].log_softmax(-1)
    assert torch.allclose(smooth, 0.7 * plain + 0.3 * -log_q.mean(dim=-1).sum(), rtol=1e-5)


def test_validation_counts_exact_matches_of_greedy_captions(corpus: CaptionCorpus) -> None:
    family, network = built(corpus, captioned=1)
    asked = task(family, corpus, [0, 1, 2])
    terms = family.loss(network.eval(), asked, {})
    samples = family.sample(
        network, CaptionRequest(seen=seen_of(corpus.train, [0, 1, 2]), decoding="greedy"), draws(3), {}
    )
    texts = [captions[0].text for captions in samples.written]
    assert family.frequencies is not None
    references = [[words(each) for each in corpus.train.captions[i]] for i in range(3)]  # type: ignore[attr-defined]
    rewards = [cider(words(text), known, family.frequencies) for text, known in zip(texts, references, strict=True)]
    assert float(terms.diagnostics["cider"][0]) == pytest.approx(sum(rewards))
    assert terms.diagnostics["exact_match"].tolist() == [
        sum(words(text) in known for text, known in zip(texts, references, strict=True)), 3
    ]  # fmt: skip


def critical(corpus: CaptionCorpus, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    family, network = built(corpus, self_critical=5, candidates=3)
    trained = family.at(5)
    drawn: list[list[int]] = []
    real = CaptionFamily.draw

    def spied(self: CaptionFamily, *rest: Any) -> list[list[int]]:
        # The byte network writes no words of the references: let each image's first candidate be a reference.
        found = real(self, *rest)
        for row in range(0, len(found), 3):
            found[row] = corpus.train.tokens[row // 3][0].tolist()  # type: ignore[attr-defined]
        drawn[:] = found
        return found

    monkeypatch.setattr(CaptionFamily, "draw", spied)
    return family, network.train(), trained, drawn


def test_self_critical_is_reinforce_with_the_others_as_baseline(
    corpus: CaptionCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, network, trained, drawn = critical(corpus, monkeypatch)
    assert not family.at(4).is_critical
    asked = task(trained, corpus, [0, 1])
    assert asked.weight_B.tolist() == [3, 3]
    terms = trained.loss(network, asked, {})
    expected = []
    for i in range(2):
        known = [words(each) for each in corpus.train.captions[i]]  # type: ignore[attr-defined]
        rewards = [
            cider(words(family.tokenizer.decode(tokens)), known, trained.frequencies)
            for tokens in drawn[3 * i : 3 * i + 3]
        ]
        assert max(rewards) > 0
        total = torch.zeros(())
        for k, tokens in enumerate(drawn[3 * i : 3 * i + 3]):
            others = (sum(rewards) - rewards[k]) / 2
            right = [*tokens, family.end][: family.assets.context]
            logits = network(torch.tensor([[family.end, *right[:-1]]]), pixels_BCSS=asked.seen[i : i + 1])[0]
            total = total + (rewards[k] - others) * F.cross_entropy(logits, torch.tensor(right), reduction="sum")
        expected.append(total)
    assert torch.allclose(terms.total_B, torch.stack(expected), rtol=1e-4)
    # A step against this gradient makes what was rewarded likelier.
    likelihood = -by_hand(family, network, corpus, 0).detach()
    terms.total_B.sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert -by_hand(family, network, corpus, 0) > likelihood


@pytest.mark.parametrize("decoding", ["beam", "greedy", "nucleus"])
def test_captions_do_not_depend_on_those_beside_them(decoding: Any, corpus: CaptionCorpus) -> None:
    family, network = built(corpus)
    network.eval()
    num = 1 if decoding == "greedy" else 2
    request = CaptionRequest(seen=seen_of(corpus.train, [0, 1, 2, 3]), decoding=decoding, num=num)
    whole = family.sample(network, request, draws(4 * num), {}).written
    apart = family.sample(network, replace(request, batch=1), draws(4 * num), {}).written
    assert [[each.text for each in captions] for captions in whole] == [
        [each.text for each in captions] for captions in apart
    ]
    assert all(len(captions) == num for captions in whole)
    for one, other in zip(whole, apart, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.log_probability == pytest.approx(b.log_probability, rel=1e-4)


def test_cross_attention_weights_are_those_of_the_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = CrossAttention(width=8, heads=2, memory_width=5, qk_norm=True, bias=True, dropout=0.0, layer=0)
        x, memory = torch.randn(2, 3, 8), torch.randn(2, 6, 5)
    weights_BHLM = layer.weights(x, memory)
    _, v_BHMD = layer._memory(memory, None)
    mixed = layer.out((weights_BHLM @ v_BHMD).transpose(1, 2).flatten(-2))
    assert torch.allclose(mixed, layer(x, memory, None, None), atol=1e-6)


def test_what_is_saved_can_be_looked_at(corpus: CaptionCorpus, tmp_path: Path) -> None:
    family, network = built(corpus)
    request = CaptionRequest(seen=seen_of(corpus.train, [0, 1]), attention=True, num=2)
    samples = family.sample(network.eval(), request, draws(4), {})
    first = samples.written[0][0]
    assert first.looks_LHW is not None
    assert torch.allclose(first.looks_LHW.sum(dim=(1, 2)), torch.ones(len(first.looks_LHW)), atol=1e-5)
    names = {file.name for file in samples.save(tmp_path)}
    assert names >= {"captions.txt", "captions.json", "attention-0000.png", "attention-0001.png"}
    assert all((tmp_path / name).stat().st_size for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 3, "decoding": "greedy"}, "beams has no effect"),
        ({"top_p": 0.5}, "top_p has no effect"),
        ({"num": 3, "beams": 2}, "has no 3 captions"),
        ({"num": 2, "decoding": "greedy"}, "one caption"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"num": 0}, "num must be at least 1"),
    ],
)
def test_a_request_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionRequest(**options)


def test_pictures_that_cannot_be_read_are_named(corpus: CaptionCorpus, tmp_path: Path) -> None:
    family, network = built(corpus)
    (tmp_path / "x.png").write_bytes(b"no")
    for file, message in ((tmp_path / "x.png", "cannot be read"), (tmp_path / "y.png", "no such file")):
        with pytest.raises(UserError, match=message):
            family.sample(network, CaptionRequest(image=((file,),)), draws(1), {})
    with pytest.raises(UserError, match="--image"):
        family.sample(network, CaptionRequest(), draws(0), {})
