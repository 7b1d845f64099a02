"""Fréchet distance, precision and recall against closed forms; a run as a pipeline of diffusers."""

import json
import math
import os
import subprocess
import sys
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
from seedfast.evaluate.fidelity import Spread, fidelity, floor, frechet_distance, precision_recall, raw_pixels
from seedfast.evaluate.image_features import pretrained
from seedfast.export.export import export
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import Process
from seedfast.families.image.request import ImageRequest
from seedfast.models.diffusers_unet import DiffusersUNet

os.environ["HF_HUB_OFFLINE"] = "1"


def numbers(seed: int, *shape: int) -> Tensor:
    return keys.normal(seed, torch.arange(shape[0]), *shape[1:]).double()


def by_the_book(a: Tensor, b: Tensor) -> float:
    """Heusel et al. 2017, with a square root of a matrix."""
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(scipy.linalg.sqrtm((first @ second).numpy()).real)
    return float((a.mean(0) - b.mean(0)).square().sum() + torch.trace(first + second - 2 * root))


def test_the_distance_is_the_one_of_the_paper() -> None:
    a, b = numbers(1, 300, 6) @ numbers(2, 6, 6), numbers(3, 200, 6) * 2 + 1
    assert frechet_distance(a, b) == pytest.approx(by_the_book(a, b), rel=1e-9)


def test_the_distance_of_normal_laws_that_commute_is_that_of_means_and_deviations() -> None:
    unit = numbers(1, 500, 4)
    unit = (unit - unit.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(unit.T)).T)
    stds = torch.tensor([0.1, 1.0, 2.0, 3.0]).double()
    expected = 4 * 0.5**2 + float((stds - 1).square().sum())
    assert frechet_distance(unit, unit * stds + 0.5) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features_need_no_root_of_a_singular_matrix() -> None:
    a = numbers(1, 20, 100)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 1) == pytest.approx(100, rel=1e-9)
    assert frechet_distance(a, numbers(2, 30, 100)) > 0


def test_precision_and_recall_tell_apart_what_is_missing() -> None:
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


def test_a_measurement_says_all_that_it_depends_on() -> None:
    real = (numbers(1, 100, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8)
    made = [(numbers(seed, 80, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8) for seed in (2, 3)]
    found = fidelity(real, made, seeds=(2, 3))
    assert (found.real, found.made, found.features) == (100, 80, "raw pixels in [-1, 1]")
    assert len(found.distance.values) == len(found.floor.values) == 2
    assert found.floor == floor(raw_pixels(real), (2, 3))
    assert "fewer than 2,048" in str(found.warning)
    assert replace(found, real=3000, made=2048).warning is None


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


def test_features_are_computed_some_at_a_time_and_must_be_numbers_for_each_image() -> None:
    images = (numbers(1, 600, 1, 4, 4) * 40 + 128).clamp(0, 255).to(torch.uint8)
    sizes: list[int] = []

    def features(images_BCSS: Tensor) -> Tensor:
        sizes.append(len(images_BCSS))
        return raw_pixels(images_BCSS)

    found = fidelity(images, [images[:300]], features=features, name="mine", seeds=(1,))
    assert found.distance == fidelity(images, [images[:300]], seeds=(1,)).distance
    assert max(sizes) <= 256 < sum(sizes)
    wrong: dict[str, Any] = {
        r"not \[256, 1, 4, 4\]": lambda x: x,
        "not list": lambda x: x.tolist(),
        r"not \[1, 16\]": lambda x: raw_pixels(x)[:1],
        "not finite": lambda x: raw_pixels(x) / 0,
    }
    for message, function in wrong.items():
        with pytest.raises(UserError, match=message):
            fidelity(images, [images], features=function, name="mine", seeds=(1,))


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
    said = capsys.readouterr().err
    assert "nothing" in said
    assert said.count("\n") == 1


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
    assert "makes no images" in capsys.readouterr().err


def diffusers_run(story: Path, folder: Path, **options: Any) -> trained.Trained:
    run = small_run("image-diffusion", story, steps=6)
    run = replace(
        run,
        recipe="image-diffusers",
        model=DiffusersUNet(widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4),
        objective=ImageDiffusion(**{"conditional": False, **options}),
    )
    train_in(folder, run)
    checkpoint = trained.find(folder)
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


PROCESSES = [
    Process(schedule="linear", prediction="v"),
    Process(schedule="linear", prediction="eps"),
    Process(schedule="linear", prediction="x0"),
    Process(),
    Process(schedule="linear", zero_terminal_snr=True),
]
STEPS = 20


def ours(model: trained.Trained, **options: Any) -> Tensor:
    """What `seedfast sample` makes with its default options, in [0, 1], before it is rounded to bytes."""
    family: Any = model.family
    request = ImageRequest(num=4, steps=STEPS, **options)
    labels_B = torch.tensor(request.labels(family.assets, conditional=family.conditional))
    grid = request.grid(family.process)
    with torch.no_grad():
        *_, x = family._steps(model.network, family._start(grid, request, START), grid, labels_B, request, START)
    return (x.float().clamp(-1, 1) + 1) / 2


START = keys.Draws(seed=1, scope="sample", positions_B=torch.arange(4))


def exported(run: Path, folder: Path, **options: Any) -> Any:
    """A run as a newcomer exports it and loads it again."""
    diffusers = pytest.importorskip("diffusers")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["export", str(run), "--out", str(folder)])
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_an_exported_pipeline_reproduces_our_samples(
    process: Process, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = diffusers_run(story, tmp_path / "run", process=process)
    pipeline = exported(tmp_path / "run", tmp_path / "pipeline")
    module = "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: START.normal("start", 1, 8, 8))
    options = {"num_inference_steps": STEPS, "use_clipped_model_output": True, "output_type": "pt"}
    theirs = pipeline(batch_size=4, **options).images
    expected = ours(model)
    assert torch.allclose(theirs, expected, atol=1e-4)
    assert float(expected.std()) > 0.01, "the images are not all the same"


@pytest.mark.parametrize("process", [PROCESSES[1], PROCESSES[3]], ids=str)
def test_an_exported_pipeline_knows_the_classes_of_a_conditional_model(
    process: Process, story: Path, tmp_path: Path
) -> None:
    model = diffusers_run(story, tmp_path / "run", process=process, conditional=True)
    pipeline = exported(tmp_path / "run", tmp_path / "pipeline", trust_remote_code=True)
    assert pipeline.labels == {"few": 0, "many": 1}
    options = {"num_inference_steps": STEPS, "output_type": "pt", "latents": START.normal("start", 1, 8, 8)}
    both = ["few", "few", "many", "many"]
    plain = ours(model, label=("few", "many"))
    assert torch.allclose(pipeline(both, **options).images, plain, atol=1e-4)
    assert torch.allclose(pipeline([0, 0, 1, 1], **options).images, plain, atol=1e-4)
    guided = ours(model, label=("few", "many"), guidance=3.0)
    assert torch.allclose(pipeline(both, guidance_scale=3.0, **options).images, guided, atol=1e-4)
    anything = ours(model)
    assert torch.allclose(pipeline(batch_size=4, **options).images, anything, atol=1e-4)
    for one, other in ((plain, guided), (plain, anything), (plain, ours(model, label=("many", "few")))):
        assert not torch.allclose(one, other, atol=1e-3), "each asks for something else"
    assert [image.size for image in pipeline(["few"], num_inference_steps=2).images] == [(8, 8)]
    with pytest.raises(ValueError, match="no class 'bird'; there are few, many"):
        pipeline(["bird"])


def test_an_exported_pipeline_says_how_to_use_it(story: Path, tmp_path: Path) -> None:
    """The card's own lines, in a process that knows nothing of seedfast."""
    diffusers_run(story, tmp_path / "run", conditional=True)
    exported(tmp_path / "run", tmp_path / "pipeline", trust_remote_code=True)
    card = (tmp_path / "pipeline/README.md").read_text()
    code = card.split("```python")[1].split("```")[0].replace("PATH", str(tmp_path / "pipeline"))
    check = "import sys; assert len(images) == 2 and not any(m.startswith('seedfast') for m in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "squared error" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": Process(times=100)}, "1000 times"),
        ({"process": Process(schedule="flow", prediction="flow")}, "neither the schedule flow"),
    ],
    ids=str,
)
def test_what_a_pipeline_cannot_reproduce_is_not_exported(
    options: dict[str, Any], message: str, story: Path, tmp_path: Path
) -> None:
    model = diffusers_run(story, tmp_path / "run", **options)
    with pytest.raises(UserError, match=message):
        export(model, tmp_path / "pipeline")


def test_another_network_is_not_exported(image_run: Path, tmp_path: Path) -> None:
    checkpoint = trained.find(image_run)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    with pytest.raises(UserError, match="seedfast's own"):
        export(model, tmp_path / "pipeline")
