"""Captioners with pretrained encoders and language models of transformers: tiny random ones in local folders."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tests.helpers import tiny_models
from tests.helpers.quick import slow_but
from tests.helpers.runs import small_run, train_in, train_until

from seedfast import recipes
from seedfast.data.caption.config import CaptionData
from seedfast.data.image import processor as vision
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.request import CaptionRequest
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.models.captioner import Captioner, CaptionerNetwork
from seedfast.models.transformer import Transformer
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.run_folder.train_state import read_tensors
from seedfast.verify.resume import compare

SIZES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
KINDS = ("clip", "vit", "dino", "siglip")
DECODER = Transformer(layers=1, heads=2, width=16)


def encoder(kind: str, folder: Path) -> Path:
    """The folder of a tiny random model with its image processor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            text = {key: value for key, value in SIZES.items() if "size" not in key or key == "hidden_size"}
            text |= {"intermediate_size": 16, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
            model: Any = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=SIZES))
            size: dict[str, Any] = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
            processor: Any = transformers.CLIPImageProcessor(**size)
        elif kind == "siglip":
            vision = transformers.SiglipVisionConfig(**SIZES)
            text = {key: value for key, value in SIZES.items() if "size" not in key or key == "hidden_size"}
            model = transformers.SiglipModel(
                transformers.SiglipConfig(
                    text_config={**text, "intermediate_size": 16, "vocab_size": 50}, vision_config=vision.to_dict()
                )
            )
            processor = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
        elif kind == "dino":
            model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES))
            processor = transformers.BitImageProcessor(
                size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
            )
        else:
            model = transformers.ViTModel(transformers.ViTConfig(**SIZES, hidden_dropout_prob=0.1))
            processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run_of(story: Path, path: Path, **model: Any) -> Run:
    run = small_run("image-caption", story, steps=6, eval_every=3, save_every=3)
    data = CaptionData(path=run.data.path, tokenizer="bytes", context=24, validation=0.25)
    run = replace(run, data=data, objective=Captioning(metrics_every_n_images=None))
    return replace(run, model=Captioner(path=str(path), decoder=DECODER, **model))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_normalisation_are_those_of_the_image_processor(kind: str, tmp_path: Path) -> None:
    processor = vision.pretrained(str(encoder(kind, tmp_path)))
    image = Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 20).convert("RGB")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.mean, processor.std))
    assert torch.allclose((torch.from_numpy(processor(image)) / 255 - mean) / std, theirs, atol=1e-5)
    for name, content in processor.files().items():
        (tmp_path / name).write_text(content)
    assert vision.load(tmp_path).files() == processor.files()


@pytest.mark.parametrize("kind", slow_but(["clip", "siglip"], KINDS))
def test_a_frozen_encoder_is_loaded_stored_once_and_never_trained(kind: str, story: Path, tmp_path: Path) -> None:
    path = encoder(kind, tmp_path / kind)
    run = run_of(story, path)
    with open_session(run.located(), tmp_path / "run") as opened:
        network = opened.state.network
        assert isinstance(network, CaptionerNetwork)
        own = transformers.AutoModel.from_pretrained(path)
        own = getattr(own, "vision_model", own).state_dict()
        held = network.encoder.model.state_dict()
        assert all(torch.equal(tensor, own[name.removeprefix("vision_model.")]) for name, tensor in held.items())
        network.train()
        assert not any(part.training for part in network.encoder.modules())
        assert network.decoder.training
        assert network.encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (
            2,
            16 if kind == "siglip" else 17,
            16,
        )
        assert opened.corpus.train.images.features_MPU is not None  # type: ignore[attr-defined]
    train_in(tmp_path / "run", run.located())
    newest = find(tmp_path / "run", at="newest")
    groups = read_tensors(newest.folder)
    assert not any("encoder" in name for name in groups["model"] | groups["optimizer"])
    assert any(name.startswith("encoder.") for name in groups["frozen"])
    assert len(list((tmp_path / "run/checkpoints").glob("frozen-*"))) == 1
    # The run needs the encoder's folder neither to sample nor to continue.
    shutil.rmtree(path)
    model = trained.load(recipes.stored(newest.folder), newest)
    picture = Path(run.data.path).parent / "00.png"
    assert model.sample(CaptionRequest(image=(picture,)), seed=1).captions  # type: ignore[attr-defined]
    train_in(tmp_path / "run", replace(recipes.stored(tmp_path / "run"), steps=8))


def test_cached_features_give_the_same_losses(story: Path, tmp_path: Path) -> None:
    path = encoder("clip", tmp_path / "clip")
    losses = {}
    for cached in (True, False):
        train_in(tmp_path / str(cached), run_of(story, path, cache_features=cached).located())
        losses[cached] = [entry["loss"] for entry in journal.read(tmp_path / str(cached)) if "loss" in entry]
    assert len(losses[True]) == 6
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_a_resumed_run_with_cached_features_has_the_same_bits(story: Path, tmp_path: Path) -> None:
    run = run_of(story, encoder("vit", tmp_path / "vit")).located()
    train_in(tmp_path / "whole", run)
    for j in (2, 3):
        with open_session(run, tmp_path / str(j)) as opened:
            train_until(opened, j)
        train_in(tmp_path / str(j), run)
        assert compare(tmp_path / "whole", tmp_path / str(j))[0] is None


def test_an_unfrozen_encoder_is_trained(story: Path, tmp_path: Path) -> None:
    run = run_of(story, encoder("vit", tmp_path / "vit"), frozen=False).located()
    train_in(tmp_path / "run", run)
    first, last = (read_tensors(tmp_path / f"run/checkpoints/step-0000000{n}")["model"] for n in (3, 6))
    moved = [name for name in first if name.startswith("encoder.") and not torch.equal(first[name], last[name])]
    assert len(moved) > 10
    with open_session(run, tmp_path / "run") as opened:
        assert all(part.training for part in opened.state.network.encoder.modules())  # type: ignore[union-attr]


@pytest.mark.parametrize("frozen", [None, False], ids=["frozen first", "trained first"])
def test_the_trained_part_can_change_in_the_middle_of_a_run(frozen: bool | None, story: Path, tmp_path: Path) -> None:
    """Stages are allowed by name: a checkpoint has each weight once, and a resumed run goes on with what it holds."""
    run = replace(run_of(story, encoder("clip", tmp_path / "clip"), frozen=frozen), steps=2, eval_every=0).located()
    train_in(tmp_path / "run", run)
    other = replace(run, steps=4, model=replace(run.model, frozen=None if frozen is False else False))
    train_in(tmp_path / "run", other, allow_change=("model.frozen",))
    newest = find(tmp_path / "run", at="newest")
    groups = read_tensors(newest.folder)
    assert not groups["model"].keys() & groups.get("frozen", {}).keys()
    with open_session(replace(other, steps=5), tmp_path / "run") as opened:
        assert opened.state.average is not None
        for weights, network in (("raw", opened.state.network), ("ema", opened.state.average.network)):
            held, stored = network.state_dict(), newest.network_tensors(weights)
            assert all(torch.equal(held[name], tensor) for name, tensor in stored.items())
    before, after = (read_tensors(tmp_path / f"run/checkpoints/step-0000000{n}") for n in (2, 4))
    name = next(name for name in before["model"] | before.get("frozen", {}) if "encoder" in name)
    where = ("frozen", "model") if frozen is None else ("model", "frozen")
    moved = not torch.equal(before[where[0]][name], after[where[1]][name])
    assert moved == (frozen is None), "the encoder goes on from its raw weights, and only a trained one moves"


def test_a_decoder_starts_from_a_language_model(story: Path, tmp_path: Path) -> None:
    words = Path(small_run("image-caption", story).data.path).read_text()
    tiny_models.folder(tmp_path / "gpt2", "gpt2", words)
    run = small_run("image-caption", story, steps=2)
    run = replace(
        run,
        data=replace(run.data, tokenizer="model"),
        model=replace(run.model, decoder=Transformer(), language_model=str(tmp_path / "gpt2")),
    ).located()
    assert run.data.tokenizer == str(tmp_path / "gpt2")
    with open_session(run, tmp_path / "run") as opened:
        held = opened.state.network.decoder.state_dict()  # type: ignore[union-attr]
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2").state_dict()
    rows = len(held["tokens.weight"])
    assert torch.equal(held["tokens.weight"], theirs["transformer.wte.weight"][:rows])
    assert torch.equal(held["blocks.1.mlp.up.weight"], theirs["transformer.h.1.mlp.c_fc.weight"].T)
    shutil.rmtree(tmp_path / "gpt2")  # a started run does not need it any more
    train_in(tmp_path / "run", run)
    newest = find(tmp_path / "run", at="newest")
    assert trained.load(recipes.stored(newest.folder), newest)
    with pytest.raises(UserError, match="gpt2 is not the folder of a transformers model"):
        train_in(tmp_path / "another", replace(run, data=replace(run.data, tokenizer="bytes")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": True}, r"frozen \(True\) has no effect without a pretrained encoder"),
        ({"cache_features": False}, r"cache_features \(False\) has no effect without a pretrained encoder"),
        (
            {"path": "x", "frozen": False, "cache_features": True},
            r"cache_features \(True\) needs a frozen encoder",
        ),
        ({"path": "x", "vit": replace(recipes.make("image-caption").model.vit, width=64)}, "use one of them"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Captioner(**options)


def test_a_model_without_image_input_is_refused(tmp_path: Path) -> None:
    tiny_models.model("gpt2", 30).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no image input"):
        Captioner(path=str(tmp_path)).located()
    with pytest.raises(UserError, match="no such folder"):
        Captioner(path=str(tmp_path / "nowhere")).located()
