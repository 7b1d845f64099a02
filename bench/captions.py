"""Captions of glyphs on both hard splits, beside the nearest training image's captions; and the speed-up by caches.

python bench/captions.py train face|character FOLDER      trains (or continues), then prints every metric
python bench/captions.py speed [--tiny]                   decoding with and without cache; epochs with and without
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seedfast import recipes
from seedfast.evaluate import trained
from seedfast.evaluate.caption_quality import CaptionQuality
from seedfast.families.caption.beam_search import beam_search
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.transformer import Transformer
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.verify.identities.captions import cached, uncached


class Printed(Silent):
    """One line at each validation."""

    began = time.perf_counter()

    def validation(self, session: Session, record: dict[str, Any]) -> None:
        """Print the score of the averaged weights."""
        score = record.get("ema", record["raw"])
        numbers = {"loss": score["loss"], **score["diagnostics"]}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        print(f"step {session.state.step:5}  {time.perf_counter() - self.began:6.0f} s  {shown}", flush=True)


def quality(split_by: str, folder: Path) -> None:
    """Train the recipe with one split, and compare with the nearest training image."""
    run = recipes.make("image-caption")
    run = replace(run, data=replace(run.data, split_by=split_by), eval_every=250, save_every=250)
    with open_session(run, folder) as opened:
        if run_training(opened, Printed()).interrupted_by:
            sys.exit(1)
    checkpoint = find(folder, at="newest")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    for metric in (CaptionQuality(decoding="greedy"), CaptionQuality(images=512)):
        began = time.perf_counter()
        found = metric(model)
        images = len(found.samples.images.names)
        print(f"unseen {split_by}, {metric.decoding}, {images} images, {time.perf_counter() - began:.0f} s")
        print("\n".join(found.table()), flush=True)


def decoding(*, tiny: bool) -> None:
    """Beam 4 on random weights, 32 tokens, with and without the key-value cache."""
    config = Transformer(layers=1, heads=2, width=16) if tiny else Transformer(layers=4, heads=8, width=256)
    network = config.build(vocabulary=4096, context=32, causal=True, memory_width=256)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    network.eval()
    memory_BMU = torch.randn(8, 196, 256)
    options = {"start_B": torch.zeros(8, dtype=torch.int64), "end": 0, "beams": 4, "length": 32}
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    texts = {}
    for _ in range(1 if tiny else 5):  # alternating, so that other load on the machine slows both
        for name, make in (("with", cached), ("without", uncached)):
            began = time.perf_counter()
            texts[name] = [each[0].tokens for each in beam_search(make(network, memory_BMU), **options)]
            seconds[name].append(time.perf_counter() - began)
    best = {name: min(each) for name, each in seconds.items()}
    same = texts["with"] == texts["without"]
    ratio = best["without"] / best["with"]
    print(f"beam 4, 8 images, 32 tokens: cache {best['with']:.2f} s, none {best['without']:.2f} s, {ratio:.1f}×; "
          f"the same captions: {same}")  # fmt: skip


def features(folder: Path, *, tiny: bool) -> None:
    """An epoch with a frozen ViT (12 layers of width 192, 224 pixels) with and without cached features."""
    import json

    from PIL import Image
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    shape = ViTConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=1 if tiny else 12,
                      num_attention_heads=3)  # fmt: skip
    ViTModel(shape).save_pretrained(folder / "vit")
    ViTImageProcessor().save_pretrained(folder / "vit")
    generator = torch.Generator().manual_seed(0)
    captions = {}
    count, batch = (9, 2) if tiny else (72, 16)  # of which a tenth validates: four steps are an epoch
    for i in range(count):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((224, 224)).save(folder / f"{i}.png")
        captions[f"{i}.png"] = [f"a picture of number {i}"]
    (folder / "captions.json").write_text(json.dumps(captions))
    run = recipes.make("image-caption")
    data = replace(run.data, path=str(folder / "captions.json"), tokenizer="bytes", validation=0.1)
    found = {}
    for cached_features in (True, False):
        model = replace(run.model, path=str(folder / "vit"), cache_features=cached_features)
        each = replace(run, data=data, model=model, steps=8, batch_size=batch, eval_every=0, sample_every=0,
                       eval_examples=4, objective=replace(run.objective, metrics_every_n_images=None))  # fmt: skip
        with open_session(each.located(), folder / f"run-{cached_features}") as opened:
            run_training(opened, Silent())
        steps = [entry for entry in journal.read(folder / f"run-{cached_features}") if "loss" in entry]
        # The first epoch warms up; the second is measured.
        found[cached_features] = sum(e["time"]["seconds"] for e in steps[4:]), [e["loss"] for e in steps]
    apart = max(abs(a - b) / b for a, b in zip(found[True][1], found[False][1], strict=True))
    print(f"an epoch of {4 * batch} images: cached features {found[True][0]:.2f} s, none {found[False][0]:.2f} s, "
          f"{found[False][0] / found[True][0]:.1f}×; losses differ by {apart:.0e}")  # fmt: skip


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", split_by, folder]:
            quality(split_by, Path(folder))
        case ["speed"] | ["speed", "--tiny"]:
            decoding(tiny="--tiny" in sys.argv)
            with tempfile.TemporaryDirectory() as temporary:
                features(Path(temporary), tiny="--tiny" in sys.argv)
        case _:
            sys.exit(__doc__)
