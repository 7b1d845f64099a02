"""Pipelines of diffusers that `seedfast export` wrote."""

from dataclasses import replace
from pathlib import Path

from seedfast import huggingface
from seedfast.data.image.config import ImageData
from seedfast.data.image.dataset import ImageAssets
from seedfast.data.text.config import STORED
from seedfast.errors import UserError
from seedfast.evaluate.bare import BareKind
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.request import ImageRequest
from seedfast.loop.config import Run
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.plain_config import from_mapping
from seedfast.models.diffusers_unet import StoredUNet

OBJECTIVE = "objective.json"
"""The file in an exported pipeline with the noise process and the conditioning that it was trained with."""


def _pipeline(folder: Path, device: str, data: str | None) -> Trained:
    """The model of a pipeline; with data, to be evaluated on its validation split."""
    path = folder / STORED / OBJECTIVE
    if not path.is_file():
        raise UserError(
            f"{folder} is a pipeline of diffusers that seedfast did not export, so its noise process is unknown; "
            "use it with diffusers."
        )
    stored = huggingface.read_json(path)
    objective = from_mapping(ImageDiffusion(), stored["objective"], where=str(path))
    model = StoredUNet(path=str(folder / "unet"), patch=stored["patch"])
    assets = ImageAssets.load(folder / STORED)
    run = Run(recipe="", objective=objective, data=ImageData(), model=model)
    corpus = None
    if data is not None:
        run = replace(
            run, data=ImageData(path=data, size=assets.size, channels=1 if assets.channels == 1 else 3).located()
        )
        corpus = run.data.load()
        if corpus.assets.classes != assets.classes:
            raise UserError(
                f"{data} has the classes {', '.join(corpus.assets.classes)}, but this model was trained on "
                f"{', '.join(assets.classes)}: evaluate it on images of the same classes."
            )
    family, distributed = run.objective.build(assets), DistributedContext.single(device, "fp32")
    network = family.objective.network(model).to(distributed.device).eval()
    return Trained(run, family, assets, network, {}, "base", None, distributed, brought=corpus)


PIPELINE = BareKind(lambda _: ImageRequest, _pipeline)
