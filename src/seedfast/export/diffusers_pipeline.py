"""Export of a finished run as a pipeline of diffusers that reproduces its samples."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seedfast.data.image.dataset import ImageAssets
from seedfast.data.text.config import STORED
from seedfast.errors import UserError
from seedfast.evaluate.bare.pipeline import OBJECTIVE
from seedfast.evaluate.trained import Trained
from seedfast.export.card import validation_of
from seedfast.export.unet_shape import as_unet2d
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.sampling import ImageGenerator
from seedfast.files import to_json
from seedfast.huggingface import read_json
from seedfast.models.diffusers_unet import DiffusersNetwork
from seedfast.models.unet import UNetNetwork

_PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_TIMESTEPS = 1000  # the time input of diffusers is t, that of seedfast t/T; DiffusersNetwork converts with this T


def pipeline(model: Trained) -> Any:
    """The model as a pipeline of diffusers, whose samples are those of `seedfast sample` with its default options.

    Without classes and folded pixels it is a `DDIMPipeline`, otherwise an `ImagePipeline`. The same start noise gives
    the same images to 1e-4, for every number of steps that divides T. A DDIMPipeline has to be called with
    use_clipped_model_output=True: otherwise it does not derive ε again from the clamped image. Raises UserError for
    models that a pipeline could not reproduce.
    """
    generator, network = model.family.generator, model.network
    assert isinstance(generator, ImageGenerator), "only image models become pipelines"
    assert isinstance(network, DiffusersNetwork | UNetNetwork), "only U-Nets become pipelines"
    process = generator.process
    if not process.is_discrete or process.prediction not in _PREDICTION_TYPES:
        raise UserError(
            "DDIM of diffusers takes a discrete schedule with the prediction eps, v or x0, "
            f"not the schedule {process.schedule} with the prediction {process.prediction}."
        )
    if len(process.table) != _TIMESTEPS:
        raise UserError(f"Only a schedule of {_TIMESTEPS} timesteps can be exported, not one of {len(process.table)}.")
    assets, conditioning = generator.conditioning.assets, generator.conditioning
    if isinstance(network, UNetNetwork):
        patch, unet = network.config.patch, as_unet2d(network, size=assets.size, channels=assets.channels)
    else:
        patch, unet = network.patch, network.unet
    from diffusers import DDIMPipeline, DDIMScheduler

    alpha_bar = process.table.alpha_bar_T
    previous = alpha_bar.roll(1)
    previous[0] = 1
    scheduler = DDIMScheduler(
        num_train_timesteps=_TIMESTEPS,
        trained_betas=(1 - alpha_bar / previous).tolist(),
        prediction_type=_PREDICTION_TYPES[process.prediction],
        clip_sample=True,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    if not conditioning.conditional and patch == 1:
        return DDIMPipeline(unet=unet, scheduler=scheduler)
    from seedfast.export.image_pipeline import ImagePipeline

    names = dict(enumerate(assets.classes)) if conditioning.conditional else None
    return ImagePipeline(unet, scheduler, names, patch)


def write(pipe: Any, model: Trained, folder: Path) -> None:
    """Write a pipeline into a folder, with the code of a pipeline that diffusers lacks and a card with its usage."""
    pipe.save_pretrained(folder)
    is_builtin = _is_builtin(pipe)
    if not is_builtin:
        spec = importlib.util.find_spec(type(pipe).__module__)
        assert spec is not None
        assert spec.origin is not None
        (folder / "pipeline.py").write_text(Path(spec.origin).read_text("utf-8"), "utf-8")
        index = read_json(folder / "model_index.json") | {"_class_name": ["pipeline", type(pipe).__name__]}
        (folder / "model_index.json").write_text(to_json(index), "utf-8")
    own, objective = folder / STORED, model.run.objective
    assert isinstance(objective, ImageDiffusion), "only image models become pipelines"
    own.mkdir()
    model.assets.save(own)
    patch = 1 if is_builtin else pipe.config.patch
    (own / OBJECTIVE).write_text(to_json({"objective": asdict(objective), "patch": patch}), "utf-8")
    (folder / "README.md").write_text(_card(model, pipe), "utf-8")


def _card(model: Trained, pipe: Any) -> str:
    """The model card: description, loss on held-out images, usage. Markdown with the hub's header."""
    run, checkpoint, assets = model.run, model.committed, model.assets
    assert isinstance(assets, ImageAssets)
    record = validation_of(model)
    number = f" On held-out images: squared error {record.loss:.4f}." if record else ""
    has_classes = pipe.unet.config.num_class_embeds is not None
    if _is_builtin(pipe):
        use = [
            "from diffusers import DDIMPipeline",
            'pipe = DDIMPipeline.from_pretrained("PATH")',
            "images = pipe(batch_size=4, num_inference_steps=50, use_clipped_model_output=True).images",
        ]
    else:
        call = f"[{assets.classes[0]!r}, {assets.classes[-1]!r}], guidance_scale=2.0" if has_classes else "batch_size=4"
        use = [
            "from diffusers import DiffusionPipeline",
            'pipe = DiffusionPipeline.from_pretrained("PATH", trust_remote_code=True)  # pipeline.py, in this folder',
            f"images = pipe({call}).images",
        ]
    lines = [
        "---", "library_name: diffusers", "tags: [seedfast, image-generation]", "---", "", "# An image diffusion model",
        "", f"{assets.channels} × {assets.size} × {assets.size} pixels, trained with `seedfast train {run.recipe}` for "
        f"{checkpoint.step} steps of {run.batch_size} images of `{Path(run.data.path).name}`.{number}",
        "", "With diffusers:", "", "```python", *use, "```", "",
        "With seedfast:", "", "```bash", "seedfast sample PATH --num 4", "```", "",
        *([f"Classes: {', '.join(assets.classes)}.", ""] if has_classes else []),
    ]  # fmt: skip
    return "\n".join(lines)


def _is_builtin(pipe: Any) -> bool:
    """Whether the pipeline's class is part of diffusers."""
    return type(pipe).__module__.startswith("diffusers.")
