"""Captioners that `seedfast export` wrote."""

from dataclasses import replace
from pathlib import Path

import torch

from seedfast import huggingface
from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.errors import UserError
from seedfast.evaluate.bare import BareKind, load_weights
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.request import CaptionRequest
from seedfast.loop.config import Run
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.plain_config import from_mapping
from seedfast.models.captioner import Captioner


def _captioner(folder: Path, device: str, data: str | None) -> Trained:
    """The captioner of a folder; with data, to be evaluated on its validation split.

    Only there, because metrics such as CIDEr weigh words by the captions of one split.
    """
    path = folder / "config.json"
    shape = huggingface.read_json(path).get("captioner")
    if not isinstance(shape, dict):
        raise UserError(f'{path} has no "captioner", so it is not an export of seedfast.')
    model = from_mapping(Captioner(), shape, where=str(path))
    run = Run(recipe="", objective=Captioning(), data=CaptionData(), model=model)
    assets = CaptionAssets.load(folder)
    corpus = None
    if data is not None:
        parts = CaptionData(path=data, processor=str(folder), tokenizer=str(folder), context=assets.context)
        run = replace(run, data=parts.located())
        corpus = run.data.load()
        assets = corpus.assets
    family, distributed = run.objective.build(assets), DistributedContext.single(device, "fp32")
    with torch.random.fork_rng():
        network = family.objective.network(model)
    load_weights(network, folder, "captioner")
    network.to(distributed.device).eval()
    return Trained(run, family, assets, network, {}, "base", None, distributed, brought=corpus)


BARE_CAPTIONER = BareKind(lambda _: CaptionRequest, _captioner)
