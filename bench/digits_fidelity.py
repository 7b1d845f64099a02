"""Fidelity on scikit-learn's 8×8 digits after a fixed time of training on two cores.

Trains the image recipe for a number of seconds of wall clock (all steps, without the validation at the end), generates
as many images as there are real ones, and prints their Fréchet distance on raw pixels scaled to [0, 1]. On this scale
the distance between two random halves of the real digits is 0.07 (0.290 in [-1, 1]: the distance grows with the square
of the scale).

    python bench/digits_fidelity.py [--seconds 180 | --steps N] [--seeds 1 2 3] [--ddpm] [--threads 2]

With --steps the result is reproducible to the bit, and its training time is printed. A finished run in --out is only
sampled.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import seedfast
from common import parse, parser
from seedfast import recipes
from seedfast.data.image.config import ImageData
from seedfast.evaluate.fidelity import FidelityResult, Spread, compare
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.unet import UNet
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.run_folder import journal


def write_digits(folder: Path, count: int | None = None) -> Tensor:
    """The first digits (None: all) as a folder of PNG files, one sub-folder for each class; uint8 [N, 1, 8, 8]."""
    digits = load_digits()
    pixels = np.round(digits.images[:count] * (255 / 16)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target[:count], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number:04}.png")
    return torch.from_numpy(pixels)[:, None]


def the_run(data: Path, *, steps: int, seed: int) -> Run:
    """The image recipe for digits."""
    return replace(
        recipes.make("image-diffusion"),
        data=ImageData(path=str(data), size=8, channels=1),
        objective=ImageDiffusion(class_dropout_prob=0.0),
        model=UNet(width=32, multipliers=(1, 2), blocks=1, attention=(False, True)),
        schedule=Schedule(shape="cosine", warmup=100),
        ema=EMA(half_life=200),
        batch_size=32,
        steps=steps,
        seed=seed,
        eval_every=0,
        sample_every=0,
        save_every=steps,
    )


class StepTimes(Silent):
    """Records the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def step(self, session: Session, entry: dict[str, Any], seconds: float) -> None:
        """Record a step."""
        self.seconds.append(seconds)


def steps_in(data: Path, seconds: float) -> int:
    """The number of steps that fit into the time, from the measured time of some steps."""
    clock = StepTimes()
    with tempfile.TemporaryDirectory() as folder, open_session(the_run(data, steps=60, seed=0), Path(folder)) as opened:
        run_training(opened, clock)
    return int(0.85 * seconds / float(np.median(clock.seconds[10:])))  # a margin for slower steps


def trained_run(data: Path, folder: Path, seed: int, *, steps: int | None, seconds: float) -> None:
    """Train a run (or use a finished one), and print its training time."""
    if steps is None:
        exists = (folder / "run.yaml").exists()
        steps = recipes.stored(folder).steps if exists else steps_in(data, seconds)
    with open_session(the_run(data, steps=steps, seed=seed), folder) as opened:
        run_training(opened, Silent())
    took = sum(entry["time"]["seconds"] for entry in journal.read(folder) if "loss" in entry)
    size, batch = sum(p.numel() for p in opened.network.parameters()), opened.run.batch_size
    print(
        f"seed {seed}: {took:.0f} s of training, {steps:,} steps of {batch} images, "
        f"{batch * steps / took:,.0f} images/s, {size:,} parameters",
        flush=True,
    )


def generated(folder: Path, count: int, **options: Any) -> Tensor:
    """`count` images of all classes, uint8 [N, 1, 8, 8]."""
    return trained_images(seedfast.load(folder), count, all_classes=True, **options).images_NCSS


def trained_images(model: Trained, count: int, **options: Any) -> ImageSamples:
    """`count` images of a model."""
    samples = model.sample(ImageRequest(num=count, batch=128, **options), seed=1)
    assert isinstance(samples, ImageSamples)
    return samples


def unit_pixels(images_NCSS: Tensor) -> Tensor:
    """Pixels in [0, 1], float64 [N, 64]."""
    return images_NCSS.flatten(1).double() / 255


def measure(real: Tensor, images: Sequence[Tensor]) -> FidelityResult:
    """On raw pixels in [0, 1]."""
    return compare(real, images, features=unit_pixels, name="raw pixels in [0, 1]", seeds=range(10))


FEW, SOLVER, MANY = "DDIM, 50 steps", "DPM-Solver++(2M), 25 steps", "DDPM, 1000 steps"
SAMPLERS: dict[str, dict[str, Any]] = {
    FEW: {"steps": 50},
    SOLVER: {"sampler": "dpm++2m", "steps": 25},
    MANY: {"sampler": "ddpm", "steps": 1000},
}


def main() -> None:
    """Train, sample, measure, print."""
    made = parser(__doc__, threads=2)
    made.add_argument("--seconds", type=float, default=180)
    made.add_argument("--steps", type=int, help="number of training steps, instead of a time")
    made.add_argument("--images", type=int, help="use only the first digits, and generate as many (default: all 1,797)")
    made.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    made.add_argument("--ddpm", action="store_true", help="also sample in 1000 DDPM steps; print the ratio (an hour)")
    made.add_argument("--out", type=Path, help="keep the data and the runs here")
    options = parse(made)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        real = write_digits(out / "digits", options.images)
        images: dict[str, list[Tensor]] = {name: [] for name in SAMPLERS if name != MANY or options.ddpm}
        for seed in options.seeds:
            folder = out / f"seed-{seed}"
            trained_run(out / "digits", folder, seed, steps=options.steps, seconds=options.seconds)
            for name, sets in images.items():
                began = time.perf_counter()
                sets.append(generated(folder, len(real), **SAMPLERS[name]))
                distance = measure(real, sets[-1:]).distance.mean
                print(f"  {name}: {distance:.4f} ({time.perf_counter() - began:.0f} s of sampling)", flush=True)
        found = {name: measure(real, sets) for name, sets in images.items()}
        seeds = len(options.seeds)
        for name, each in found.items():
            print(f"{name}: {each.generated:,} generated and {each.real:,} real, {each.features}, {seeds} seeds")
            for title in ("distance", "floor", "precision", "recall"):
                spread = getattr(each, title)
                print(f"  {title:<10} {spread.mean:.4f} ± {spread.std:.4f}")
        if options.ddpm:
            pairs = zip(found[FEW].distance.values, found[MANY].distance.values, strict=True)
            ratios = Spread(tuple(few / many for few, many in pairs))
            print(f"{FEW} ÷ {MANY}: {', '.join(f'{r:.3f}' for r in ratios.values)}; mean {ratios.mean:.3f}")


if __name__ == "__main__":
    main()
