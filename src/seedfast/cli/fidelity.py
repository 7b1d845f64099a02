"""`seedfast fidelity`."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from seedfast.errors import UserError
from seedfast.families.image.request import ImageRequest


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Compare a model's images with real ones: Fréchet distance, precision and recall, with the floor.

    The floor is the distance between two random halves of the real images. With classes, as many images of each are
    made as the training data have; with --label, as many of each label, to compare with the real ones of these classes.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    request: Annotated[ImageRequest, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ImageRequest(num=2048, batch=256)
    )
    seeds: tuple[int, ...] = ()
    """Seeds of the samples (default 1); several show the spread."""
    against: Literal["train", "validation"] = "train"
    """Which real images to compare with."""
    features: str | None = None
    """path/to/file.py:function that turns images (uint8 [B, C, S, S]) into features [B, F], or a vision model of
    transformers, a folder or a name on the hub (default: raw pixels)."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to use (default: the averaged ones where there are some)."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
    json: bool = False
    """Print one JSON object instead of a table."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def fidelity(words: list[str]) -> int:
    """Measure a run's samples; the flags are `Fidelity`'s and those of image requests."""
    asked = tyro.cli(Fidelity, args=words, prog="seedfast fidelity", config=(tyro.conf.UseAppendAction,))
    import torch

    from seedfast import recipes
    from seedfast.evaluate import fidelity as measure
    from seedfast.evaluate import trained
    from seedfast.families.image.family import ImageFamily
    from seedfast.families.image.samples import ImageSamples

    checkpoint = trained.find(asked.run, at=asked.at)
    run = recipes.stored(checkpoint.folder)
    if asked.data is not None:
        run = replace(run, data=run.data.with_path(asked.data))
    model = trained.load(run, checkpoint, weights=asked.weights, device=asked.device)
    if not isinstance(model.family, ImageFamily):
        raise UserError(f"{asked.run} is a run of {run.recipe}, which makes no images.")
    seeds = asked.seeds or (1,)
    features = _features(asked.features)  # found first: sampling takes minutes
    request = asked.request
    if request.image is not None:
        raise UserError("Fidelity is of images that are made from noise: leave --image out.")
    if model.family.conditional and not request.label:
        request = replace(request, mix=True)
    request.labels(model.family.assets, conditional=model.family.conditional)  # refuses classes that there are not
    corpus = model.corpus
    split = corpus.train if asked.against == "train" else corpus.validation
    batch = split.batch(list(range(len(split))))
    wanted_K = torch.tensor([name in request.label or not request.label for name in model.family.assets.classes])
    real = batch["pixels"][wanted_K[batch["labels"]]]
    made = []
    for seed in seeds:
        samples = model.sample(request, seed=seed)
        assert isinstance(samples, ImageSamples)
        made.append(samples.images_NCSS)
    found = measure.fidelity(real, made, **features, seeds=seeds)
    if asked.json:
        print(json.dumps({**asdict(found), "warning": found.warning}))
        return 0
    of = asked.against + (f" ({', '.join(request.label)})" if request.label else "")
    print(f"{found.made:,} images for each of {len(seeds)} seeds, against {found.real:,} of {of}")
    print(f"features             {found.features}")
    for title in ("distance", "floor", "precision", "recall"):
        values = getattr(found, title)
        spread = f" ± {values.std:.4f}" if len(values.values) > 1 else ""
        print(f"{'Fréchet ' + title if title == 'distance' else title:<20} {values.mean:.4f}{spread}")
    if found.warning:
        print(found.warning)
    return 0


def _features(name: str | None) -> dict[str, Any]:
    """The features to compare in, and what they are called."""
    if name is None:
        return {}
    from seedfast.evaluate import image_features as features
    from seedfast.user_code import own_function

    found = own_function(name)[0] if ":" in name else features.pretrained(name)
    return {"features": found, "name": name}
