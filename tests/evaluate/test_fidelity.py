"""Fidelity: Fréchet distance, precision and recall against closed forms, features, and the metric on runs."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.linalg
import torch
from PIL import Image
from tests.helpers.runs import small_run, train_in, write_images
from torch import Tensor

from seedfast import cli, keys, recipes
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.evaluate.fidelity import Fidelity, Spread, compare, floor
from seedfast.evaluate.image_distance import frechet_distance, precision_recall, raw_pixels
from seedfast.evaluate.image_features import pretrained
from seedfast.families.image.request import ImageRequest
from seedfast.run_folder.choice import find

os.environ["HF_HUB_OFFLINE"] = "1"


def numbers(seed: int, *shape: int) -> Tensor:
    return keys.normal(seed, torch.arange(shape[0]), *shape[1:]).double()


def with_matrix_root(a: Tensor, b: Tensor) -> float:
    """The formula of Heusel et al. 2017, with the square root of a matrix."""
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(scipy.linalg.sqrtm((first @ second).numpy()).real)
    return float((a.mean(0) - b.mean(0)).square().sum() + torch.trace(first + second - 2 * root))


def test_the_distance_is_the_one_of_the_paper() -> None:
    a, b = numbers(1, 300, 6) @ numbers(2, 6, 6), numbers(3, 200, 6) * 2 + 1
    assert frechet_distance(a, b) == pytest.approx(with_matrix_root(a, b), rel=1e-9)


def test_the_distance_of_normal_distributions_that_commute_is_that_of_means_and_deviations() -> None:
    unit = numbers(1, 500, 4)
    unit = (unit - unit.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(unit.T)).T)
    stds = torch.tensor([0.1, 1.0, 2.0, 3.0]).double()
    expected = 4 * 0.5**2 + float((stds - 1).square().sum())
    assert frechet_distance(unit, unit * stds + 0.5) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features_have_a_distance() -> None:
    a = numbers(1, 20, 100)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 1) == pytest.approx(100, rel=1e-9)
    assert frechet_distance(a, numbers(2, 30, 100)) > 0


def test_precision_and_recall_measure_different_faults() -> None:
    real = torch.cat([numbers(1, 200, 2), numbers(2, 200, 2) + 100])
    half = numbers(3, 200, 2)
    wide = torch.cat([real + 0.01, numbers(4, 400, 2) - 1000])
    precision, recall = precision_recall(real, half)
    assert precision > 0.95
    assert 0.45 < recall < 0.55
    precision, recall = precision_recall(real, wide)
    assert precision == pytest.approx(0.5, abs=0.01)
    assert recall > 0.99
    assert precision_recall(real, real) == (1, 1)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match="at least two"):
        frechet_distance(numbers(1, 1, 3), numbers(2, 5, 3))
    with pytest.raises(UserError, match="more than 3"):
        precision_recall(numbers(1, 3, 3), numbers(2, 5, 3))


def test_a_spread_over_seeds() -> None:
    assert Spread((1.0, 2.0, 3.0)).mean == 2
    assert Spread((1.0, 2.0, 3.0)).std == 1
    assert math.isnan(Spread((1.0,)).std)


def test_a_result_has_everything_that_it_depends_on() -> None:
    real = (numbers(1, 100, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8)
    generated = [(numbers(seed, 80, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8) for seed in (2, 3)]
    found = compare(real, generated, seeds=(2, 3))
    assert (found.real, found.generated, found.features) == (100, 80, "raw pixels in [-1, 1]")
    assert len(found.distance.values) == len(found.floor.values) == 2
    assert found.floor == floor(raw_pixels(real), (2, 3))
    assert "fewer than 2,048" in str(found.warning)
    numbers_of = {"real", "made", "distance", "precision", "recall", "floor"}
    assert found.record().keys() == {"features", "decoding", "warning", *numbers_of}
    assert found.table()[0] == "80 images for each of 2 seeds, against 100 of real images"
    assert replace(found, real=3000, generated=2048).warning is None


# ---- runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train_in(folder, small_run("image-diffusion", story, steps=4))
    return folder


def test_the_command_measures_a_run(image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.py"
    own.write_text("def means(images):\n    return images.double().mean(dim=(2, 3))\n")
    words = ["fidelity", str(image_run), "--num", "20", "--steps", "2", "--json", "--seeds", "1", "--seeds", "2"]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*words, "--features", f"{own}:means"])
    found = json.loads(capsys.readouterr().out)
    assert found["features"].endswith("own.py:means")
    assert len(found["distance"]["values"]) == 2
    assert "2,048" in found["warning"]


def test_features_are_computed_in_batches_and_must_be_numbers_for_each_image() -> None:
    images = (numbers(1, 600, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8)
    sizes: list[int] = []

    def features(images_BCSS: Tensor) -> Tensor:
        sizes.append(len(images_BCSS))
        return raw_pixels(images_BCSS)

    found = compare(images, [images[:300]], features=features, name="mine", seeds=(1,))
    assert found.distance == compare(images, [images[:300]], seeds=(1,)).distance
    assert max(sizes) <= 256 < sum(sizes)
    wrong: dict[str, Any] = {
        r"not \[256, 1, 4, 4\]": lambda x: x,
        "not list": lambda x: x.tolist(),
        r"not \[1, 16\]": lambda x: raw_pixels(x)[:1],
        "not finite": lambda x: raw_pixels(x) / 0,
    }
    for message, function in wrong.items():
        with pytest.raises(UserError, match=message):
            compare(images, [images], features=function, name="mine", seeds=(1,))


def test_a_vision_model_of_transformers_gives_features(
    image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        shape = transformers.ViTConfig(**sizes, image_size=16, patch_size=4)
        vit = transformers.ViTModel(shape, add_pooling_layer=False).eval()
    vit.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "vit")
    images = (numbers(1, 5, 1, 8, 8) * 40 + 128).clamp(0, 255).to(torch.uint8)
    pictures = [Image.fromarray(image[0].numpy()).convert("RGB") for image in images]
    with torch.no_grad():
        expected = vit(**processor(pictures, return_tensors="pt")).last_hidden_state.mean(dim=1)
    found = pretrained(str(tmp_path / "vit"))(images)
    assert torch.allclose(found, expected, atol=0.05)  # theirs resizes without rounding to bytes
    assert not torch.allclose(found[0], found[1], atol=0.05)
    words = ["fidelity", str(image_run), "--num", "20", "--steps", "2", "--json", "--features", str(tmp_path / "vit")]
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    assert json.loads(capsys.readouterr().out)["features"].endswith("vit")
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words[:-1], str(tmp_path / "nothing")])
    message = capsys.readouterr().err
    assert "nothing" in message
    assert message.count("\n") == 1


def test_other_data_are_not_taken_for_those_of_the_run(
    image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "other", bytes(range(256)) * 8)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fidelity", str(image_run), "--num", "20", "--steps", "2", "--data", str(tmp_path / "other")])
    assert "not what this run was trained on" in capsys.readouterr().err


def test_a_run_of_text_has_no_images(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_in(tmp_path / "text", small_run("text-masked", story, steps=1))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fidelity", str(tmp_path / "text")])
    assert "generates no images" in capsys.readouterr().err


def test_the_metric_generates_the_classes_in_the_proportions_of_the_training_data(image_run: Path) -> None:
    checkpoint = find(image_run, at="newest")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    measure = Fidelity(request=ImageRequest(num=12, steps=2), seeds=(1, 2))
    assert measure.fits(model) is None
    found = measure(model)
    assert (found.real, found.generated, found.reference) == (len(model.corpus.train), 12, "train")
    assert found.decoding == "dpm++2m in 2 steps, guidance 1, 2 network evaluations for an image", "unguided"
    few = Fidelity(request=ImageRequest(num=8, steps=2, label=("few",)))(model)
    assert few.reference == "train (few)"
    assert few.real < len(model.corpus.train)
    held_out = Fidelity(request=ImageRequest(num=8, steps=2), against="validation")(model)
    assert (held_out.real, held_out.reference) == (len(model.corpus.validation), "validation")
    with pytest.raises(UserError, match='no class "bird"; there are few, many'):
        Fidelity(request=ImageRequest(label=("bird",)))(model)
    with pytest.raises(UserError, match="leave --image out"):
        Fidelity(request=ImageRequest(image=Path("x.png")))
