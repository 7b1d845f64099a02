"""Small captioning runs: thirty images of a text's bytes, and its words as captions of unequal number and length."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.families.caption.family import Captioning
from seedfast.families.caption.generator import CaptionGenerator
from seedfast.families.caption.objective import CaptionObjective, CaptionTask
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.models.captioner import Captioner, CaptionerNetwork
from seedfast.models.transformer import Transformer
from seedfast.models.vit import ViT


def write(folder: Path, text: str) -> Path:
    """Write thirty images of 8 × 8 pixels and captions.json beside them; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    words = text.split()
    captions: dict[str, list[str]] = {}
    for number in range(30):
        part = text.encode()[number * 64 : number * 64 + 64]
        name = f"{number:02}.png"
        Image.frombytes("L", (8, 8), bytes(2 * byte % 256 for byte in part)).save(folder / name)
        captions[name] = [" ".join(words[number + i : number + 2 * i + 1]) for i in range(1, 2 + number % 3)]
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder / "captions.json"


def fields(text: Path) -> dict[str, Any]:
    """The fields of a small captioning run that uses all keyed randomness and is self-critical from step 12 on."""
    folder = text.with_suffix(".captions")
    if text.exists() and not folder.exists():
        write(folder, text.read_text())
    return {
        "data": CaptionData(
            path=str(folder / "captions.json"), tokenizer="bytes", context=24, size=8, channels=1, validation=0.25
        ),
        "objective": Captioning(
            captions_per_image=2,
            label_smoothing=0.1,
            self_critical=12,
            self_critical_samples=2,
            metrics_every_n_images=2,
        ),
        "model": Captioner(
            vit=ViT(patch=4, layers=1, heads=2, width=16), decoder=Transformer(layers=1, heads=2, width=16)
        ),
    }


def flags(run: Run) -> list[str]:
    """The command line that gives `seedfast train image-caption` this small run."""
    data, objective = run.data, run.objective
    return [
        "--data.path", data.path, "--data.tokenizer", "bytes", "--data.context", str(data.context),
        "--data.size", "8", "--data.channels", "1", "--data.validation", str(data.validation),
        "--model.vit.patch", "4", "--model.vit.layers", "1", "--model.vit.heads", "2", "--model.vit.width", "16",
        "--model.decoder.layers", "1", "--model.decoder.heads", "2", "--model.decoder.width", "16",
        "--objective.captions-per-image", str(objective.captions_per_image),
        "--objective.label-smoothing", str(objective.label_smoothing),
        "--objective.self-critical", str(objective.self_critical),
        "--objective.self-critical-samples", str(objective.self_critical_samples),
        "--objective.metrics-every-n-images", str(objective.metrics_every_n_images),
    ]  # fmt: skip


def build(
    corpus: CaptionCorpus, *, patch: int = 2, **options: Any
) -> tuple[CaptionObjective, CaptionGenerator, CaptionerNetwork]:
    """Objective, generator and a small network with arbitrary weights."""
    family = Captioning(**options).build(corpus.assets)
    model = Captioner(
        vit=ViT(patch=patch, layers=1, heads=2, width=16), decoder=Transformer(layers=2, heads=2, width=16)
    )
    assert isinstance(family.objective, CaptionObjective)
    assert isinstance(family.generator, CaptionGenerator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = family.objective.network(model)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return family.objective, family.generator, network


def draws(count: int, start: int = 0) -> Draws:
    """The randomness of `count` training examples."""
    return Draws(seed=1, scope="train", positions_B=torch.arange(start, start + count), group=count)


def task(objective: CaptionObjective, corpus: CaptionCorpus, ids: list[int], start: int = 0) -> CaptionTask:
    """The task of these training examples."""
    return objective.task(corpus.train.batch(ids), draws(len(ids), start))


def nats_by_hand(network: CaptionerNetwork, corpus: CaptionCorpus, image: int, shift: int = 0) -> torch.Tensor:
    """-Σ log q of all captions of a training image, one at a time, without padding. shift: 1 for a broken twin."""
    total, end = torch.zeros(()), corpus.assets.tokenizer.end_of_text
    for caption in corpus.train.tokens[image]:
        tokens = [end, *caption.tolist(), end][: corpus.assets.context + 1]
        inputs = torch.tensor([tokens[: -1 + shift or None]])
        log_q_LV = network(inputs, pixels_BCSS=corpus.train.pixels([image]))[0].log_softmax(dim=-1)
        targets_L = torch.tensor(tokens[1 - shift :])
        total = total - log_q_LV.gather(1, targets_L[:, None]).sum()
    return total
