"""A finished run as a pipeline of diffusers, which reproduces its samples."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from seedfast.errors import UserError
from seedfast.evaluate.bare import read_json
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageFamily
from seedfast.files import to_json
from seedfast.models.diffusers_unet import DiffusersNetwork

_NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_TIMES = 1000  # diffusers tells its network t; ours is told thousandths of the whole


def pipeline(model: Trained) -> Any:
    """The model as a pipeline of diffusers, whose samples are those of `seedfast sample` with its default options.

    Without classes it is a `DDIMPipeline`, with them a `ClassConditionalPipeline`. The same start noise gives the same
    images to 1e-4, in any number of steps that divides T. A DDIMPipeline has to be called with
    use_clipped_model_output=True: else it does not derive ε again from the clamped image. Raises UserError for what a
    pipeline could not reproduce.
    """
    family, network = model.family, model.network
    if not isinstance(family, ImageFamily) or not isinstance(network, DiffusersNetwork):
        raise UserError(f"Only runs whose network is diffusers' own can be exported to it, not {model.run.recipe}.")
    process = family.process
    if process.schedule in ("flow", "edm") or process.prediction not in _NAMES:
        raise UserError(
            f"diffusers' DDIM knows neither the schedule {process.schedule} with the prediction {process.prediction} "
            "nor its like: it takes a discrete schedule and eps, v or x0."
        )
    if len(process.table) != _TIMES:
        raise UserError(f"Only a schedule of {_TIMES} times can be exported, not one of {len(process.table)}.")
    from diffusers import DDIMPipeline, DDIMScheduler

    alpha_bar = process.table.alpha_bar_T
    before = alpha_bar.roll(1)
    before[0] = 1
    scheduler = DDIMScheduler(
        num_train_timesteps=_TIMES,
        trained_betas=(1 - alpha_bar / before).tolist(),
        prediction_type=_NAMES[process.prediction],
        clip_sample=True,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    if not family.conditional:
        return DDIMPipeline(unet=network.unet, scheduler=scheduler)
    from seedfast.export.class_conditional import ClassConditionalPipeline

    return ClassConditionalPipeline(network.unet, scheduler, dict(enumerate(family.assets.classes)))


def write(pipe: Any, model: Trained, folder: Path) -> None:
    """Write a pipeline, with the code that diffusers lacks, and a card that says how to use it."""
    pipe.save_pretrained(folder)
    known = type(pipe).__module__.startswith("diffusers.")
    if not known:
        spec = importlib.util.find_spec(type(pipe).__module__)
        assert spec is not None
        assert spec.origin is not None
        (folder / "pipeline.py").write_text(Path(spec.origin).read_text("utf-8"), "utf-8")
        index = read_json(folder / "model_index.json") | {"_class_name": ["pipeline", type(pipe).__name__]}
        (folder / "model_index.json").write_text(to_json(index), "utf-8")
    (folder / "README.md").write_text(_card(model, plain=known), "utf-8")


def _card(model: Trained, *, plain: bool) -> str:
    """What it is, its number on held-out images, and how to use it. Markdown with the hub's header."""
    run, checkpoint, assets = model.run, model.committed, model.family.assets  # type: ignore[attr-defined]
    record = json.loads((checkpoint.folder / "state.json").read_text())["best"].get(model.weights, {})
    number = (
        f" On held-out images: squared error {record['loss']:.4f}." if record.get("step") == checkpoint.step else ""
    )
    use = [
        "from diffusers import DDIMPipeline",
        'pipe = DDIMPipeline.from_pretrained("PATH")',
        "images = pipe(batch_size=4, num_inference_steps=50, use_clipped_model_output=True).images",
    ] if plain else [
        "from diffusers import DiffusionPipeline",
        'pipe = DiffusionPipeline.from_pretrained("PATH", trust_remote_code=True)  # pipeline.py, in this folder',
        f"images = pipe([{assets.classes[0]!r}, {assets.classes[-1]!r}], guidance_scale=2.0).images",
    ]  # fmt: skip
    lines = [
        "---", "library_name: diffusers", "tags: [seedfast, image-generation]", "---", "", "# An image diffusion model",
        "", f"{assets.channels} × {assets.size} × {assets.size} pixels, trained with `seedfast train {run.recipe}` for "
        f"{checkpoint.step} steps of {run.batch_size} images of `{Path(run.data.path).name}`.{number}",
        "", "```python", *use, "```", "",
        *([] if plain else [f"Classes: {', '.join(assets.classes)}.", ""]),
    ]  # fmt: skip
    return "\n".join(lines)
