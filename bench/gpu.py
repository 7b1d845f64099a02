"""Speed of training steps on one GPU: seedfast beside plain loops of the same networks, in one process.

    text     GPT-2's smallest shape (12 layers, width 768), context 1024, batch 32, 32,768 tokens, bf16: next-token
             prediction in a plain loop (`torch.compile` of the whole network, fused AdamW, clipping, no checks, not
             deterministic), and seedfast's families and optimizers
    shipped  two recipes as they are, by what is compiled
    images   64 × 64 pixels in colour: a U-Net and a transformer, beside diffusers' training step with a U-Net of as
             many parameters (eager, as its script trains, and compiled)

seedfast is deterministic throughout and does all that a user's run does, except checkpoints, validations and samples.
A row is the mean of the last steps, after those that compile; ×: speed over the first row of its part. The share of
the peak counts 6 operations for each parameter and token, and 12 · layers · width · context for attention, causal or
not.

    python bench/gpu.py [--only text shipped images] [--steps 40] [--peak TFLOPS] [--quick]

--quick: tiny sizes, to see that everything runs, also without a GPU.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor.config as generating
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

os.environ["HF_HUB_OFFLINE"] = "1"

from common import parse, parser
from image_speed import matched, parameters
from seedfast import recipes
from seedfast.data.image.config import ImageData
from seedfast.data.text.config import TextData
from seedfast.loop.compilation import Compile
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.peak import known_peak
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.dit import DiT
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder.journal import StepEntry

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BACKEND = "inductor" if CUDA else "eager"  # without a GPU only that it runs is of interest, and not for minutes
CHOICES: tuple[Compile, ...] = ("off", "blocks", "step") if CUDA else ("off",)


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measured networks and data."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    context: int = 1024
    vocabulary: int = 32_768
    batch: int = 32
    pixels: int = 64
    images: int = 64
    unet: str = "base"
    data: str = "python"


QUICK = Sizes(layers=1, width=16, heads=2, context=16, vocabulary=300, batch=2, pixels=8, images=2, unet="tiny")


class Steps(Silent):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Read the clock."""
        self.ends.append(time.perf_counter())


def milliseconds(ends: list[float], warm: int) -> float:
    """The mean time of a step after the first `warm` ones."""
    return 1e3 * (ends[-1] - ends[warm - 1]) / (len(ends) - warm)


def ours(run: Run, warm: int) -> float:
    """Milliseconds of a step of seedfast."""
    noted = Steps()
    with tempfile.TemporaryDirectory() as folder, open_session(run, Path(folder) / "run") as session:
        session.save = lambda: None  # type: ignore[method-assign]
        run_training(session, noted)
    return milliseconds(noted.ends, warm)


def plain(step: Callable[[], Tensor], steps: int, warm: int) -> float:
    """Milliseconds of a step of a plain loop, which reads the loss of every tenth step.

    As fast as PyTorch can be: a run of seedfast before it has left deterministic kernels, eager and compiled, behind.
    """
    torch.set_deterministic_debug_mode("default")
    generating.deterministic = False
    ends = []
    for number in range(steps):
        loss = step()
        if number % 10 == 9 or number in (warm - 1, steps - 1):
            loss.item()
        ends.append(time.perf_counter())
    return milliseconds(ends, warm)


def trainer(network: nn.Module, loss: Callable[[], Tensor], *, bf16: bool) -> Callable[[], Tensor]:
    """A usual training step: mixed precision, fused AdamW, clipping."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> Tensor:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def plain_text(model: Transformer, sizes: Sizes) -> Callable[[], Tensor]:
    """The step of a plain loop of next-token prediction, with batches drawn and copied as nanoGPT does it."""
    network = model.build(vocabulary=sizes.vocabulary, context=sizes.context, causal=True).to(DEVICE)
    compiled = torch.compile(network, backend=BACKEND)
    tokens = np.random.default_rng(0).integers(sizes.vocabulary, size=1 << 22).astype(np.uint16)

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(tokens) - sizes.context - 1, (sizes.batch,)).tolist()
        rows = torch.from_numpy(np.stack([tokens[i : i + sizes.context + 1] for i in starts]).astype(np.int64))
        rows = rows.pin_memory().to(DEVICE, non_blocking=True) if CUDA else rows
        return rows[:, :-1], rows[:, 1:]

    def loss() -> Tensor:
        x_BL, y_BL = batch()
        return F.cross_entropy(compiled(x_BL).flatten(0, 1), y_BL.flatten())

    return trainer(network, loss, bf16=CUDA)


def measured(run: Run, steps: int, **changes: Any) -> Run:
    """A run for measuring: some steps, in bf16 on a GPU, without warm-up, validations and samples."""
    run = replace(run, schedule=replace(run.schedule, warmup=0), precision="bf16" if CUDA else "fp32", steps=steps)
    return replace(run, eval_every=0, eval_examples=1, sample_every=0, save_every=10**6, **changes)


def text_run(recipe: str, model: Transformer, sizes: Sizes, steps: int, **changes: Any) -> Run:
    """A run of the shape of GPT-2's smallest model."""
    data = TextData(path=sizes.data, vocabulary=sizes.vocabulary, context=sizes.context)
    run = replace(recipes.make(recipe), data=data, model=model, batch_size=sizes.batch, clip=1.0)
    run = replace(run, optimizer=OptimizerConfig(kind="adamw", lr=6e-4))
    return measured(run, steps, **changes)


@dataclass(frozen=True)
class Row:
    """A line of the table. units: tokens or images of a step. work: its operations, where they are counted."""

    name: str
    ms: float
    units: int
    work: float = 0.0


def text(sizes: Sizes, steps: int, warm: int) -> Iterator[Row]:
    """Next-token prediction in a plain loop and here, and other families and optimizers here."""
    shape = {"layers": sizes.layers, "heads": sizes.heads, "width": sizes.width}
    gpt2 = Transformer.gpt2(**shape, bias=False, mlp="gelu-erf")
    tokens = sizes.batch * sizes.context

    def row(name: str, ms: float, model: Transformer, *, read: int = 1) -> Row:
        count = parameters(model.build(vocabulary=sizes.vocabulary, context=sizes.context, causal=True))
        attention = 12 * sizes.layers * sizes.width * sizes.context
        return Row(name, ms, tokens, tokens * read * (6.0 * count + attention))

    yield row("plain loop, nanoGPT's network, compiled", plain(plain_text(gpt2, sizes), steps, warm), gpt2)
    for choice in CHOICES:
        run = text_run("text-autoregressive", gpt2, sizes, steps, compile=choice)
        yield row(f"text-autoregressive, nanoGPT's network, {choice}", ours(run, warm), gpt2)
    own = Transformer(**shape)
    fastest = CHOICES[-1]
    muon = OptimizerConfig(kind="muon", lr=6e-4)
    for recipe, changes in (
        ("text-autoregressive", {}),
        ("text-autoregressive", {"optimizer": muon}),
        ("text-masked", {}),
        ("text-block", {}),
    ):
        run = text_run(recipe, own, sizes, steps, compile=fastest, **changes)
        name = f"{recipe}, our network, {fastest}{', Muon' if changes else ''}"
        yield row(name, ours(run, warm), own, read=2 if recipe == "text-block" else 1)


def shipped(sizes: Sizes, steps: int, warm: int) -> Iterator[Row]:
    """Two recipes as they are, in a quick run with tiny networks."""
    networks = {"text-masked": Transformer(layers=1, heads=2, width=16)}
    networks["image-diffusion"] = UNet(width=8, multipliers=(1, 2), attention=(False, False))
    for recipe, tiny in networks.items():
        run = measured(recipes.make(recipe), steps)
        units = run.batch_size * (run.data.context if isinstance(run.data, TextData) else 1)
        if sizes.layers == QUICK.layers:
            run = replace(run, model=tiny)
        for choice in CHOICES:
            yield Row(f"{recipe}, {choice}", ours(replace(run, compile=choice), warm), units)


def picture_folder(folder: Path, sizes: Sizes) -> str:
    """A folder of colour pictures of noise, in two classes."""
    random = np.random.default_rng(0)
    for number in range(64):
        place = folder / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(sizes.pixels, sizes.pixels, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return str(folder)


def images(sizes: Sizes, steps: int, warm: int) -> Iterator[Row]:
    """A U-Net and a transformer of images, and diffusers' U-Net of as many parameters in its training step."""
    unet = UNet().sized(sizes.unet)  # type: ignore[arg-type]
    built = unet.build(size=sizes.pixels, channels=3, classes=2)
    x = torch.randn(sizes.images, 3, sizes.pixels, sizes.pixels, device=DEVICE)
    time_B = torch.rand(sizes.images, device=DEVICE)
    theirs = matched(parameters(built), sizes.pixels, channels=3).to(DEVICE)
    for name, network in (("eager", theirs), ("compiled", torch.compile(theirs, backend=BACKEND))):

        def loss(network: Any = network) -> Tensor:
            noise = torch.randn_like(x)
            mixed = x + noise * time_B[:, None, None, None]
            return (network(mixed, time_B) - noise).square().mean()

        yield Row(f"diffusers' U-Net, {name}", plain(trainer(theirs, loss, bf16=CUDA), steps, warm), sizes.images)
    with tempfile.TemporaryDirectory() as folder:
        data = ImageData(path=picture_folder(Path(folder) / "pictures", sizes), size=sizes.pixels, channels=3)
        transformer = DiT() if sizes.layers == QUICK.layers else DiT(patch=4).sized("small")
        for recipe, model in (("image-diffusion", unet), ("image-transformer", transformer)):
            run = measured(recipes.make(recipe), steps, data=data, model=model, batch_size=sizes.images)
            for choice in CHOICES:
                yield Row(f"{recipe}, {choice}", ours(replace(run, compile=choice), warm), sizes.images)


PARTS = {"text": text, "shipped": shipped, "images": images}


def peak(given: float | None) -> float | None:
    """The peak of this GPU in bfloat16, in 10¹² operations a second, if it is known."""
    known = known_peak(torch.cuda.get_device_name()) if CUDA else None
    return given or (known.half if known else None)


def main() -> None:
    """Measure and print one table."""
    made = parser(__doc__, threads=torch.get_num_threads())
    made.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    made.add_argument("--steps", type=int, default=40, help="steps of each row; half of them are not measured")
    made.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    made.add_argument("--peak", type=float, help="10¹² bfloat16 operations a second of this GPU")
    made.add_argument("--quick", action="store_true")
    options = parse(made)
    if not CUDA and not options.quick:
        made.error("there is no GPU here; --quick shows that everything runs")
    sizes, most = replace(QUICK if options.quick else Sizes(), data=options.data), peak(options.peak)
    name = torch.cuda.get_device_name() if CUDA else "cpu"
    print(f"{name}, torch {torch.__version__}, peak {f'{most:g}' if most else 'unknown'} · 10¹² operations/s")
    print(f"{'':<52} {'ms/step':>9} {'units/s':>11} {'of peak':>8} {'×':>6}", flush=True)
    for part in options.only:
        first: float | None = None
        for row in PARTS[part](sizes, options.steps, options.steps // 2):
            first = first or row.ms
            rate = row.work / row.ms / 1e9  # 10¹² operations a second
            share = f"{rate / most:.1%}" if most and row.work else ""
            print(
                f"{row.name:<52} {row.ms:>9.2f} {1e3 * row.units / row.ms:>11,.0f} {share:>8} {first / row.ms:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
