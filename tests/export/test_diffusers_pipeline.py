"""A run exported as a pipeline of diffusers reproduces its samples."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.runs import small_run, train_in
from torch import Tensor

from seedfast import cli, keys, recipes
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.export.export import export
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.run_folder.choice import find

os.environ["HF_HUB_OFFLINE"] = "1"


def diffusers_run(story: Path, folder: Path, **options: Any) -> trained.Trained:
    run = small_run("image-diffusion", story, steps=4, eval_every=0)
    run = replace(
        run,
        recipe="image-diffusers",
        model=DiffusersUNet(widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4),
        objective=ImageDiffusion(**{"conditional": False, **options}),
    )
    train_in(folder, run)
    checkpoint = find(folder, at="newest")
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


PROCESSES = [
    NoiseProcess(schedule="linear", prediction="v"),
    NoiseProcess(schedule="linear", prediction="eps"),
    NoiseProcess(schedule="linear", prediction="x0"),
    NoiseProcess(),
    NoiseProcess(schedule="linear", zero_terminal_snr=True),
]
STEPS = 8


def ours(model: trained.Trained, **options: Any) -> Tensor:
    """Samples of `seedfast sample` with the pipeline's sampler, in [0, 1], before they are rounded to bytes."""
    generator: Any = model.family.generator
    request = ImageRequest(**{"num": 4, "steps": STEPS, "sampler": "ddim", "guidance": 1.0, **options})
    labels_B = torch.tensor(generator.labels(request))
    grid = request.grid(generator.process)
    with torch.no_grad():
        first = generator.initial(grid, request, START)
        *_, x = generator.steps(model.network, first, grid, labels_B, request, START)
    return (x.float().clamp(-1, 1) + 1) / 2


START = keys.Draws(seed=1, scope="sample", positions_B=torch.arange(4))


def exported(run: Path, folder: Path, **options: Any) -> Any:
    """A run exported by the command line, and loaded with diffusers."""
    diffusers = pytest.importorskip("diffusers")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["export", str(run), "--out", str(folder)])
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("process", [pytest.param(PROCESSES[0], marks=pytest.mark.slow), *PROCESSES[1:]], ids=str)
def test_an_exported_pipeline_reproduces_our_samples(
    process: NoiseProcess, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.fixture(scope="module", params=[pytest.param(PROCESSES[1], marks=pytest.mark.slow), PROCESSES[3]], ids=str)
def conditional(
    request: pytest.FixtureRequest, story: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[trained.Trained, Path, Any]:
    """A model with classes, the folder of its pipeline, and the pipeline."""
    home = tmp_path_factory.mktemp("conditional")
    model = diffusers_run(story, home / "run", process=request.param, conditional=True)
    return model, home / "pipeline", exported(home / "run", home / "pipeline", trust_remote_code=True)


def test_an_exported_pipeline_has_the_classes_of_a_conditional_model(
    conditional: tuple[trained.Trained, Path, Any],
) -> None:
    model, _, pipeline = conditional
    assert pipeline.labels == {"few": 0, "many": 1}
    options = {"num_inference_steps": STEPS, "output_type": "pt", "latents": START.normal("start", 1, 8, 8)}
    both = ["few", "few", "many", "many"]
    plain = ours(model, label=("few", "many"))
    assert torch.allclose(pipeline(both, **options).images, plain, atol=1e-4)
    assert torch.allclose(pipeline([0, 0, 1, 1], **options).images, plain, atol=1e-4)
    guided = ours(model, label=("few", "many"), guidance=3.0)
    assert torch.allclose(pipeline(both, guidance_scale=3.0, **options).images, guided, atol=1e-4)
    anything = ours(model, label=("none",))
    assert torch.allclose(pipeline(batch_size=4, **options).images, anything, atol=1e-4)
    for one, other in ((plain, guided), (plain, anything), (plain, ours(model, label=("many", "few")))):
        assert not torch.allclose(one, other, atol=1e-3), "each requests other images"
    assert [image.size for image in pipeline(["few"], num_inference_steps=2).images] == [(8, 8)]
    with pytest.raises(ValueError, match="no class 'bird'; there are few, many"):
        pipeline(["bird"])


def test_an_exported_pipeline_draws_in_half_precision(conditional: tuple[trained.Trained, Path, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    half = diffusers.DiffusionPipeline.from_pretrained(conditional[1], trust_remote_code=True, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert [image.size for image in half(["few"], num_inference_steps=2).images] == [(8, 8)]


def test_the_card_of_an_exported_pipeline_shows_its_usage(
    conditional: tuple[trained.Trained, Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code runs where seedfast cannot be imported."""
    _, folder, _ = conditional
    card = (folder / "README.md").read_text()
    code = card.split("```python")[1].split("```")[0].replace("PATH", str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "seedfast"]:
        monkeypatch.setitem(sys.modules, name, None)
    done: dict[str, Any] = {}
    exec(code, done)
    assert len(done["images"]) == 2
    assert "squared error" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": NoiseProcess(timesteps=100)}, "1000 timesteps"),
        (
            {"process": NoiseProcess(schedule="flow", prediction="flow")},
            "not the schedule flow with the prediction flow",
        ),
    ],
    ids=str,
)
def test_models_that_a_pipeline_could_not_reproduce_are_not_exported(
    options: dict[str, Any], message: str, story: Path, tmp_path: Path
) -> None:
    model = diffusers_run(story, tmp_path / "run", **options)
    with pytest.raises(UserError, match=message):
        export(model, tmp_path / "pipeline")


def test_a_transformer_of_patches_is_not_exported(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "run", small_run("image-transformer", story, steps=1))
    checkpoint = find(tmp_path / "run", at="newest")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    with pytest.raises(UserError, match="seedfast's own"):
        export(model, tmp_path / "pipeline")
