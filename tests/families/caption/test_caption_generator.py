"""Captions of images: decoding, requests, attention maps and saved samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.captions import build, draws

from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.errors import UserError
from seedfast.families.caption.generator import DEMO_IMAGES, image_batch
from seedfast.families.caption.request import CaptionRequest, ImageBatch
from seedfast.models.attention import CrossAttention
from seedfast.models.attention_mask import AttentionMask


@pytest.mark.parametrize("decoding", ["greedy", "beam", "nucleus"])
def test_the_tokenizers_end_of_text_ends_a_caption(decoding: Any, corpus: CaptionCorpus) -> None:
    _, generator, network = build(corpus, patch=4)
    network.eval()
    end = corpus.assets.tokenizer.end_of_text
    with torch.no_grad():  # a network that generates the token 5 twice and then the end, for every image
        network.decoder.head.weight.zero_()
    calls: list[int] = []

    def scripted(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(0)
        token = end if len(calls) % 3 == 0 else 5
        return torch.nn.functional.one_hot(torch.full(output.shape[:-1], token), output.shape[-1]).float() * 50

    hook = network.decoder.head.register_forward_hook(scripted)
    request = CaptionRequest(image_batch=ImageBatch(corpus.validation.pixels([0]), ("x",)), decoding=decoding)
    samples = generator.generate(network, request, draws(1), {})
    hook.remove()
    assert samples.captions[0][0].text == corpus.assets.tokenizer.decode([5, 5])


@pytest.mark.parametrize("decoding", ["beam", "greedy", "nucleus"])
def test_captions_do_not_depend_on_the_images_in_the_batch(decoding: Any, corpus: CaptionCorpus) -> None:
    _, generator, network = build(corpus)
    network.eval()
    num = 1 if decoding == "greedy" else 2
    request = CaptionRequest(image_batch=image_batch(corpus.train, [0, 1, 2, 3]), decoding=decoding, num=num)
    together = generator.generate(network, request, draws(4 * num), {}).captions
    alone = generator.generate(network, replace(request, batch=1), draws(4 * num), {}).captions
    assert [[each.text for each in captions] for captions in together] == [
        [each.text for each in captions] for captions in alone
    ]
    assert all(len(captions) == num for captions in together)
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.log_probability == pytest.approx(b.log_probability, rel=1e-4)


def test_a_folder_stands_for_its_images(
    corpus: CaptionCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processor = corpus.assets.processor
    for name in ("b.png", "in/a.JPG", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "c.png").write_bytes(b"no picture")
    request = CaptionRequest(image=(tmp_path, tmp_path / "b.png"))
    assert request.count == 4
    found = request.read(processor)
    assert found.names == tuple(str(tmp_path / name) for name in ("b.png", "in/a.JPG", "b.png"))
    assert len(found.pixels_BCSS) == 3
    assert "c.png (not a picture)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"c\.png cannot be read as an image: not a picture"):
        CaptionRequest(image=(tmp_path / "c.png",)).read(processor)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There is no picture in"):
        _ = CaptionRequest(image=(tmp_path / "empty",)).count


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "beam search with 4 beams, length penalty 0.6"),
        ({"num": 6, "length_penalty": 0.0}, "beam search with 6 beams, length penalty 0"),
        ({"decoding": "greedy"}, "greedy"),
        ({"decoding": "nucleus", "top_k": 5}, "temperature 1, top-k 5, top-p 0.9"),
    ],
)
def test_the_decoding_is_said(options: dict[str, Any], said: str, corpus: CaptionCorpus) -> None:
    _, generator, _ = build(corpus)
    assert generator.decoding(CaptionRequest(**options)) == said


def test_the_demo_is_spread_over_the_validation_images(corpus: CaptionCorpus) -> None:
    _, generator, _ = build(corpus)
    request = generator.demo(corpus.validation)
    assert request.count == min(DEMO_IMAGES, len(corpus.validation))
    many = generator.demo(corpus.train)
    assert many.image_batch is not None
    assert many.image_batch.names[0] == corpus.train.names[0]
    assert many.image_batch.names[-1] == corpus.train.names[15 * len(corpus.train) // 16]
    assert many.image_batch.references[0] == tuple(corpus.train.captions[0])


def test_the_attention_weights_reproduce_the_cross_attention_layer() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = CrossAttention(width=8, heads=2, memory_width=5, qk_norm=True, bias=True, dropout=0.0, layer=0)
        x, memory = torch.randn(2, 3, 8), torch.randn(2, 6, 5)
    weights_BHLM = layer.weights(x, memory)
    _, v_BHMD = layer._memory(memory, None)
    mixed = layer.out((weights_BHLM @ v_BHMD).transpose(1, 2).flatten(-2))
    assert torch.allclose(mixed, layer(x, memory, AttentionMask()), atol=1e-6)


def test_samples_are_saved_as_text_json_and_images(corpus: CaptionCorpus, tmp_path: Path) -> None:
    _, generator, network = build(corpus)
    request = CaptionRequest(image_batch=image_batch(corpus.train, [0, 1]), attention=True, num=2)
    samples = generator.generate(network.eval(), request, draws(4), {})
    maps = samples.captions[0][0].attention
    assert maps is not None
    assert len(maps.tokens) == len(maps.weights_LHW)
    assert torch.allclose(maps.weights_LHW.sum(dim=(1, 2)), torch.ones(len(maps.weights_LHW)), atol=1e-5)
    names = {file.name for file in samples.save(tmp_path)}
    assert names >= {"captions.txt", "captions.json", "attention-0000.png", "attention-0001.png"}
    assert all((tmp_path / name).stat().st_size for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 3, "decoding": "greedy"}, r"beams \(3\) has no effect"),
        ({"top_p": 0.5}, r"top_p \(0.5\) has no effect"),
        ({"num": 3, "beams": 2}, "has no 3 captions"),
        ({"num": 2, "decoding": "greedy"}, "one caption for each image, not num=2"),
        ({"length_penalty": -1.0}, "length_penalty must be .*not -1.0"),
        ({"num": 0}, "num must be at least 1, not 0"),
        ({"decoding": "nucleus", "temperature": float("inf")}, "temperature must be .*not inf"),
        ({"decoding": "nucleus", "top_k": 0}, "top_k must be at least 1, not 0"),
    ],
)
def test_an_impossible_request_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionRequest(**options)


def test_unreadable_images_are_named(corpus: CaptionCorpus, tmp_path: Path) -> None:
    _, generator, network = build(corpus)
    (tmp_path / "x.png").write_bytes(b"no")
    for file, message in ((tmp_path / "x.png", "cannot be read"), (tmp_path / "y.png", "no such file")):
        with pytest.raises(UserError, match=message):
            generator.generate(network, CaptionRequest(image=(file,)), draws(1), {})
    with pytest.raises(UserError, match="--image"):
        generator.generate(network, CaptionRequest(), draws(0), {})
