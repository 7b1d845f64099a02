"""`seedfast fidelity`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.chosen import ChosenFlags
from seedfast.families.image.request import ImageRequest


@dataclass(frozen=True, kw_only=True)
class FidelityFlags:
    """Compare generated images with real ones: Fréchet distance, precision and recall, next to the noise floor.

    The floor is the distance between two random halves of the real images. With classes, as many images of each class
    are generated as the training data have; with --label, equally many of each, compared with the real images of these
    classes.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    request: Annotated[ImageRequest, tyro.conf.arg(name="")] = field(
        default_factory=lambda: ImageRequest(num=2048, batch=256)
    )
    seeds: tuple[int, ...] = ()
    """Seeds of the samples (default 1); several give a standard deviation."""
    against: Literal["train", "validation"] = "train"
    """The split of the real images."""
    features: str | None = None
    """inception:FILE, those of the published FID with the weights in a file; path/to/file.py:function that maps images
    (uint8 [B, C, S, S]) to features [B, F]; or a vision model of transformers, a folder or a name on the hub (default:
    raw pixels)."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
    json: bool = False
    """Print one JSON object instead of a table."""
    chosen: ChosenFlags


def fidelity(words: list[str]) -> int:
    """Measure the samples of a run; the flags are those of `FidelityFlags` and of image requests."""
    asked: FidelityFlags = parse(FidelityFlags, words, prog="seedfast fidelity")
    from seedfast.cli.evaluate import show
    from seedfast.evaluate import fidelity as metric

    measure = metric.Fidelity(
        request=asked.request, seeds=asked.seeds or (1,), against=asked.against, features=asked.features
    )
    model = asked.chosen.load(asked.run, data=asked.data)
    return show(measure(model), model, as_json=asked.json)
