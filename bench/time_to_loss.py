"""Time to a validation loss on the characters of tiny Shakespeare: seedfast beside nanoGPT's training script.

The reference is nanoGPT's model and loop with the settings of its README for a CPU (4 layers, 4 heads, width 128,
context 64, batch 12, 2000 iterations, AdamW, no dropout), in our words; only its iterations are timed, not its start or
its evaluations. Of seedfast, the whole command is timed, from its start until the validation of some windows is in the
journal. Both train on the first nine tenths of the text. The losses are over all windows of the rest, of seedfast by
`seedfast evaluate`, after the time. Each round times both, because other load on the machine slows both; the ratio is
that of medians.

    python bench/time_to_loss.py FILE [--rounds 5] [--threads 2] [--only first whole large masked]
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common import environment, parse, parser, seconds_until
from nanogpt import NanoGPT
from seedfast.run_folder import journal

ITERATIONS, BATCH, CONTEXT, WARMUP, PEAK, LOWEST = 2000, 12, 64, 100, 1e-3, 1e-4


@dataclass(frozen=True)
class Goal:
    """A command of seedfast and what it is compared with.

    flags: of `seedfast train`. loss: the validation loss to reach, in nats per character. share: of nanoGPT's time
        in which it should be reached. beside: flags of another training, the time of whose 2000 steps then stands in
        the place of nanoGPT's.
    """

    flags: str
    loss: float
    share: float
    beside: str | None = None


_SHAPE = "--model.layers 4 --model.heads 4 --model.width 128 --data.context 64"
_LARGE = "--model.layers 4 --model.heads 5 --model.width 160 --data.context 256 --model.ngrams 8192"
_FAST = "--optimizer.iterations 3 --optimizer.form gram --optimizer.momentum 0.9"
_LEARN = f"--model.ngrams-in layers {_FAST} --optimizer.weight-decay 0"
_SHORT = f"{_LEARN} --optimizer.lr 0.02 --batch-size 12 --ema.half-life 0"
_LONG = f"{_LEARN} --optimizer.lr 0.0125 --batch-size 24"
_MASKED = f"--model.ngrams-in layers {_FAST} --optimizer.lr 0.018 --batch-size 24"
_EPOCHS = f"{_FAST} --optimizer.lr 0.0125 --batch-size 6"
GOALS = {
    "first": Goal(f"text-autoregressive {_SHAPE} {_SHORT} --steps 94 --schedule.warmup 5", 1.898, share=1 / 8),
    "whole": Goal(f"text-autoregressive {_SHAPE} {_LONG} --steps 700 --schedule.warmup 35", 1.55, share=1),
    "large": Goal(  # five minutes where nanoGPT takes 72 s
        f"text-autoregressive {_LARGE} {_EPOCHS} --steps 2000 --schedule.warmup 40", 1.4697, share=300 / 72
    ),
    "masked": Goal(
        f"text-masked {_SHAPE} {_MASKED} --steps 550 --schedule.warmup 35",
        2.145,
        share=1 / 2,
        # with the numbers of masks of the recipe when the goal was set, which reached the loss in 2000 steps
        beside=f"text-masked {_SHAPE} --batch-size 12 --objective.estimator fixed-k",
    ),
}


def rate(iteration: int, iterations: int) -> float:
    """nanoGPT's learning rate: linear warm-up, then a cosine to a tenth."""
    if iteration < WARMUP:
        return PEAK * (iteration + 1) / (WARMUP + 1)
    done = (iteration - WARMUP) / max(1, iterations - WARMUP)
    return LOWEST + 0.5 * (1 + math.cos(math.pi * done)) * (PEAK - LOWEST)


def train_nanogpt(train: Tensor, vocabulary: int, iterations: int) -> tuple[NanoGPT, float]:
    """nanoGPT trained, and the seconds of its iterations."""
    network = NanoGPT(CONTEXT, vocabulary)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    began = time.perf_counter()
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate(iteration, iterations)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        x = torch.stack([train[i : i + CONTEXT] for i in starts])
        y = torch.stack([train[i + 1 : i + 1 + CONTEXT] for i in starts])
        loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network, time.perf_counter() - began


@torch.no_grad()
def loss_of(network: NanoGPT, tokens: Tensor) -> float:
    """Nats per character over all windows."""
    count = (len(tokens) - 1) // CONTEXT
    x, y = tokens[: count * CONTEXT].view(count, -1), tokens[1 : count * CONTEXT + 1].view(count, -1)
    total = sum(
        F.cross_entropy(network(xs).flatten(0, 1), ys.flatten(), reduction="sum").item()
        for xs, ys in zip(x.split(100), y.split(100), strict=True)
    )
    return total / (count * CONTEXT)


def train_seedfast(file: Path, goal: Goal, folder: Path, threads: int) -> tuple[float, float]:
    """Validation loss of a new run over all windows, and the seconds from the command to the journal's validation."""
    command = training(file, goal.flags, folder)
    seconds = seconds_until(b'"validation"', command, folder, environment(threads))
    evaluate = [sys.executable, "-m", "seedfast", "evaluate", str(folder), "--only", "loss", "--json"]
    printed = subprocess.run(evaluate, env=environment(threads), check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed)["nats_per_token"]), seconds


def seconds_beside(file: Path, goal: Goal, folder: Path, options: Any) -> float:
    """The seconds of all steps of the training beside a goal, extrapolated from a few; without start and validation."""
    flags = f"{goal.beside} --steps {options.steps_beside} --schedule.warmup 0 {options.flags}"
    subprocess.run(training(file, flags, folder), env=environment(options.threads), check=True)
    times = [entry["time"]["seconds"] for entry in journal.read(folder) if "loss" in entry and "time" in entry]
    return ITERATIONS * statistics.median(times)


def training(file: Path, flags: str, folder: Path) -> list[str]:
    """A command that trains on a text."""
    words = [*flags.split(), "--data", str(file), "--data.tokenizer", "characters", "--out", str(folder)]
    return [sys.executable, "-m", "seedfast", "train", *words, "--eval-every", "1000000", "--quiet"]


def main() -> None:
    """Print one row for each goal."""
    made = parser(__doc__, threads=2)
    made.add_argument("file", type=Path)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--only", nargs="*", choices=GOALS, default=list(GOALS))
    made.add_argument(
        "--iterations",
        type=int,
        default=ITERATIONS,
        help=f"of nanoGPT; the time of fewer than {ITERATIONS} is extrapolated",
    )
    made.add_argument("--steps-beside", type=int, default=100, help="of a training beside; its time is extrapolated")
    made.add_argument("--flags", default="", help="further flags of every seedfast command, in one word")
    options = parse(made)
    text = options.file.read_text("utf-8")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([numbers[character] for character in text])
    train, validation = tokens[: len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10 :]
    reference: list[float] = []
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    beside: dict[str, list[float]] = {name: [] for name in options.only if GOALS[name].beside}
    for number in range(options.rounds):
        torch.manual_seed(number)
        network, seconds = train_nanogpt(train, len(numbers), options.iterations)
        reference.append(seconds * ITERATIONS / options.iterations)
        loss = loss_of(network, validation)
        print(f"nanoGPT: {seconds:.1f} s for {options.iterations} iterations, {loss:.4f} nats", flush=True)
        for name in options.only:
            goal = replace(GOALS[name], flags=f"{GOALS[name].flags} --seed {number + 1} {options.flags}")
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(train_seedfast(options.file, goal, Path(folder) / "run", options.threads))
                if goal.beside:
                    beside[name].append(seconds_beside(options.file, goal, Path(folder) / "beside", options))
            print(f"{name}: {found[name][-1][1]:.1f} s, {found[name][-1][0]:.4f} nats", flush=True)
    whole = statistics.median(reference)
    print(f"\nmedians of {options.rounds} rounds, {options.threads} threads; nanoGPT: {whole:.1f} s")
    for name, pairs in found.items():
        goal, loss, seconds = GOALS[name], *(statistics.median(each) for each in zip(*pairs, strict=True))
        other = statistics.median(beside[name]) if name in beside else whole
        limit = other * goal.share
        share = f"{seconds / whole:.3f} of nanoGPT's time"
        share += f", {seconds / other:.3f} of {other:.1f} s beside" if name in beside else ""
        print(f"{name:8} {loss:.4f} nats (goal {goal.loss}) in {seconds:.1f} s, {share} (goal {limit:.1f} s)")


if __name__ == "__main__":
    main()
