"""Small real runs: seconds of training with everything on."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image
from tests.helpers import captions as small_captions
from tests.helpers import preferences

from seedfast import recipes
from seedfast.data.image.config import ImageData
from seedfast.data.text.config import TextData
from seedfast.families.image.augment import Augment
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.text.block_diffusion import Block
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.sampling import Sampling
from seedfast.loop.session import Session
from seedfast.loop.train import Outcome, most_ahead, run_training
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.config import ImageModel
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.models.dit import DiT
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig

SLOW = pytest.mark.slow
TEXTS = ("text-autoregressive", "text-masked", "text-block", "text-proofreading", "text-embedding")
FAMILIES = (*TEXTS, "image-diffusion", "image-caption")
UNLIKE_TEXTS = [
    each if each in ("text-autoregressive", "text-proofreading", "text-embedding") else pytest.param(each, marks=SLOW)
    for each in TEXTS
]
"""The families of text as parameters of a test of what is the same in each: those that differ most are quick."""
FINETUNE = "finetune"
"""Beside the families: a network of transformers with frozen weights and an adapter."""
_GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}


def small_run(recipe: str, text: Path, **changes: Any) -> Run:
    """A run of some twenty steps with accumulation over unequal micro-batches, EMA, warm-up and validations."""
    run = replace(
        recipes.make(recipe),
        **_fields(recipe, text),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=Schedule(shape="cosine", warmup=3),
        ema=EMA(half_life=5),
        steps=20,
        batch_size=6,
        micro_batch=4,
        eval_every=6,
        eval_examples=8,
        save_every=5,
        sample_every=0,
    )
    return replace(run, **changes)


def few_steps(recipe: str) -> Sampling:
    """Samples of five steps, in families whose samples have a number of steps that does not grow with the tokens."""
    return Sampling(steps=5) if recipe in ("text-embedding", "image-diffusion") else Sampling()


def _text(recipe: str, text: Path) -> dict[str, Any]:
    model: Any = Transformer(layers=1, heads=2, width=16)
    if recipe in (FINETUNE, "finetune-masked", "dpo"):
        model = PretrainedLM(architecture=json.dumps(_GPT2), dropout=0.0, adapter=Adapter(kind="lora", rank=4))
    if recipe == "dpo":
        pairs = text.with_suffix(".pairs.jsonl")
        if not pairs.exists():
            preferences.write(pairs)
        return {"data": TextData(path=str(pairs), tokenizer="characters", context=48), "model": model}
    data = TextData(path=str(text), tokenizer="characters", context=16)
    # By default a window as short as this one is a single block, which is masked diffusion.
    return {"data": data, "model": model, **({"objective": Block(block=4)} if recipe == "text-block" else {})}


def _fields(recipe: str, text: Path) -> dict[str, Any]:
    """What makes a run of this recipe small."""
    if recipe == "image-caption":
        return small_captions.fields(text)
    return _images(recipe, text) if recipe.startswith("image") else _text(recipe, text)


_IMAGE_MODELS: dict[str, ImageModel] = {
    "image-diffusion": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4),
    "image-transformer": DiT(patch=4, body=Transformer(positions="learned", layers=1, heads=2, width=16)),
    "image-diffusers": DiffusersUNet(widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4),
}


def _images(recipe: str, text: Path) -> dict[str, Any]:
    """Images of 8×8 pixels whose pixels are the text's bytes, in two classes of different size; all that is keyed."""
    folder = text.with_suffix(".images")
    if text.exists() and not folder.exists():
        write_images(folder, text.read_bytes())
    return {
        "data": ImageData(path=str(folder), size=8, channels=1, validation=0.25, balance="inverse-frequency"),
        "objective": ImageDiffusion(
            class_balance="effective-number",
            evaluation_draws=2,
            augment=Augment(flip=True, rotate=10.0, jitter=0.1),
        ),
        "model": _IMAGE_MODELS[recipe],
    }


def write_images(folder: Path, content: bytes, count: int = 30) -> None:
    """Pictures of 8 × 8 pixels, a third of them in one class and the others in another."""
    for number in range(count):
        part = folder / ("few" if number % 3 == 0 else "many")
        part.mkdir(parents=True, exist_ok=True)
        pixels = content[number * 64 : number * 64 + 64]
        Image.frombytes("L", (8, 8), bytes(2 * byte % 256 for byte in pixels)).save(part / f"{number:02}.png")


def train_in(folder: Path, run: Run, **options: Any) -> Outcome:
    """Train a run in a folder to its end, or continue it."""
    with open_session(run, folder, **options) as opened:
        return run_training(opened, Silent())


_PLACE = TemporaryDirectory()
_FINISHED: dict[str, Path] = {}


def finished(run: Run) -> Path:
    """The folder of a run that was trained to its end once for all tests of this process, which only read it."""
    key = repr(run)
    if key not in _FINISHED:
        folder = Path(_PLACE.name) / f"{run.recipe}-{len(_FINISHED)}"
        train_in(folder, run)
        _FINISHED[key] = folder
    return _FINISHED[key]


def finished_in(folder: Path, run: Run) -> Path:
    """The folder with a copy of the finished run, for tests that change it."""
    return Path(shutil.copytree(finished(run), folder, dirs_exist_ok=True))


class StopAt(Silent):
    """Send this process a signal in the middle of a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self._step, self._number = step, number

    def step(self, session: Session, entry: dict[str, Any], seconds: float) -> None:
        """Say nothing, but stop at the chosen step."""
        if entry["step"] == self._step:
            os.kill(os.getpid(), self._number)


def train_until(opened: Session, step: int) -> None:
    """Train an open session up to a step and be stopped there as by a signal; on a GPU the host is a step ahead."""
    assert run_training(opened, StopAt(step)).step == step + most_ahead(opened.distributed.device)


def flags(run: Run) -> list[str]:
    """The command line that gives `seedfast train RECIPE` this small run."""
    if run.recipe == "image-caption":
        own = small_captions.flags(run)
    else:
        own = _image_flags(run) if run.recipe.startswith("image") else _text_flags(run)
    return [
        *own, "--optimizer.kind", "adamw", "--optimizer.lr", "0.01",
        "--ema.half-life", str(run.ema.half_life), "--steps", str(run.steps),
        "--batch-size", str(run.batch_size), "--micro-batch", str(run.micro_batch),
        "--eval-every", str(run.eval_every), "--eval-examples", str(run.eval_examples),
        "--save-every", str(run.save_every), "--sample-every", str(run.sample_every), "--no-report",
    ]  # fmt: skip


def _text_flags(run: Run) -> list[str]:
    return [
        "--data.path", run.data.path, "--data.tokenizer", "characters", "--data.context", str(run.data.context),
        "--model.layers", "1", "--model.heads", "2", "--model.width", "16",
    ]  # fmt: skip


def _image_flags(run: Run) -> list[str]:
    return [
        "--data.path", run.data.path, "--data.size", "8", "--data.channels", "1", "--data.validation", "0.25",
        "--data.balance", "inverse-frequency", "--objective.class-balance", "effective-number",
        "--objective.augment.flip", "True", "--objective.augment.rotate", "10", "--objective.augment.jitter", "0.1",
        "--objective.evaluation-draws", "2", "--model.width", "8", "--model.multipliers", "1", "2",
        "--model.blocks", "1", "--model.attention", "False", "True", "--model.heads", "2", "--model.groups", "4",
    ]  # fmt: skip
