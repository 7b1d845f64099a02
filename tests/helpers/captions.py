"""Small captioning runs: thirty pictures of a text's bytes, and its words as captions of unequal number and length."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from seedfast.data.caption.config import CaptionData
from seedfast.families.caption.family import Captioning
from seedfast.loop.config import Run
from seedfast.models.captioner import Captioner
from seedfast.models.transformer import Transformer
from seedfast.models.vit import ViT


def write(folder: Path, text: str) -> Path:
    """Thirty pictures of 8 × 8 pixels and captions.json beside them, whose path is returned."""
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
    """What makes a captioning run small; all that is keyed is in it, and from step 12 on it is self-critical."""
    folder = text.with_suffix(".captions")
    if text.exists() and not folder.exists():
        write(folder, text.read_text())
    return {
        "data": CaptionData(
            path=str(folder / "captions.json"), tokenizer="bytes", context=24, size=8, channels=1, validation=0.25
        ),
        "objective": Captioning(captions=2, label_smoothing=0.1, self_critical=12, candidates=2, captioned=2),
        "model": Captioner(
            vit=ViT(patch=4, layers=1, heads=2, width=16), decoder=Transformer(layers=1, heads=2, width=16)
        ),
    }


def flags(run: Run) -> list[str]:
    """The command line that gives `seedfast train image-caption` this small run."""
    data, objective = run.data, run.objective
    return [
        "--data.path", data.path, "--data.tokenizer", "bytes", "--data.context", str(data.context), "--data.size", "8",
        "--data.channels", "1", "--data.validation", str(data.validation), "--model.vit.patch", "4",
        "--model.vit.layers", "1", "--model.vit.heads", "2", "--model.vit.width", "16", "--model.decoder.layers", "1",
        "--model.decoder.heads", "2", "--model.decoder.width", "16", "--objective.captions", str(objective.captions),
        "--objective.label-smoothing", str(objective.label_smoothing), "--objective.candidates", "2",
        "--objective.self-critical", str(objective.self_critical), "--objective.captioned", str(objective.captioned),
    ]  # fmt: skip
