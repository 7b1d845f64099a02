"""The price of `--exact-sums`: the time of a step against the default, for several sizes of a forward pass.

Both run in this process, in turns, with one thread, as exact sums need on a CPU. The default computes the whole batch
in one forward pass. Prints for each family the time of a step by default, how many times as long it takes with exact
sums of forward passes of 1, 4, 16 examples, and the memory of the sums.

    python bench/exact_sums.py [--data FILE] [--rounds 5] [--steps 12] [--width 128] [--batch 16] [--chunks 1 4 16]
        [--images PATH]
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from common import Clock, parse, parser
from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.families.image.family import ImageDiffusion
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.train import run_training
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet
from seedfast.optim.lr_schedule import Schedule

RECIPES = ("text-autoregressive", "text-masked", "image-diffusion")


def the_run(recipe: str, *, data: str, images: str, steps: int, width: int, batch: int) -> Run:
    """The measured run, by default with one forward pass of the whole batch."""
    made = replace(recipes.make(recipe), batch_size=batch, micro_batch=None, steps=steps)
    made = replace(made, schedule=Schedule(warmup=0), eval_every=0, sample_every=0, eval_examples=1)
    if recipe == "image-diffusion":
        unet = UNet(width=max(8, width // 4), multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4)
        return replace(made, data=replace(made.data, path=images), objective=ImageDiffusion(), model=unet)
    text = TextData(path=data, tokenizer="characters", context=64)
    return replace(made, data=text, model=Transformer(layers=4, heads=4, width=width))


def seconds_of_a_step(run: Run, folder: Path) -> float:
    """Seconds of a step without saves, after the first quarter of the steps."""
    clock = Clock(warm=max(1, run.steps // 4))
    with open_session(run, folder) as session:
        session.save = lambda: None  # type: ignore[method-assign]
        run_training(session, clock)
    return (clock.end - clock.start) / (run.steps - clock.warm)


def parameters(run: Run, folder: Path) -> int:
    """The trained parameters of a run."""
    with open_session(run, folder) as session:
        return sum(parameter.numel() for parameter in session.state.optimizer.trained)


def main() -> None:
    """Measure each family with each size of a forward pass and print a table."""
    made = parser(__doc__, threads=1)
    made.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    made.add_argument("--images", default="glyphs", help="images to train on (default: glyphs)")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--steps", type=int, default=12)
    made.add_argument("--width", type=int, default=128)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 16], help="examples in a forward pass")
    options = parse(made)
    columns = " ".join(f"{f'chunk {chunk}':>9}" for chunk in options.chunks)
    print(f"{'family':<20} {'default ms':>10} {columns} {'sums MB':>8}   (batch {options.batch}, times the default)")
    for recipe in RECIPES:
        shape = {"steps": options.steps, "width": options.width, "batch": options.batch}
        run = the_run(recipe, data=options.data, images=options.images, **shape)
        exact = [replace(run, exact_sums=True, exact_chunk=chunk) for chunk in options.chunks]
        rounds = []
        with tempfile.TemporaryDirectory() as place:
            for number in range(options.rounds):
                times = [seconds_of_a_step(each, Path(place) / f"{number}-{i}") for i, each in enumerate([run, *exact])]
                rounds.append(times)
            size = 16 * parameters(run, Path(place) / "size") / 1e6
        default = statistics.median(times[0] for times in rounds)
        ratios = [statistics.median(t[i] / t[0] for t in rounds) for i in range(1, len(exact) + 1)]
        shown = " ".join(f"{ratio:>9.2f}" for ratio in ratios)
        print(f"{recipe:<20} {1e3 * default:>10.1f} {shown} {size:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
