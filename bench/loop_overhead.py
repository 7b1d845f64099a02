"""Tokens per second of seedfast's loop against a plain PyTorch loop of the same network and batch size.

Both run in this one process, in turns, so that a noisy machine is noisy for both. The plain loop is what people write:
random windows, forward, cross-entropy, backward, clip_grad_norm_, torch's own optimizers; no journal, no average of the
weights, no keyed noise, no check for NaN, no deterministic algorithms. seedfast's has all of these on. Prints the ratio
for each family and optimizer: above 1, seedfast is faster.

    python bench/loop_overhead.py [--data FILE] [--threads 2] [--rounds 7] [--steps 60]
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.transformer import Transformer
from seedfast.optim.optimizer import Optimizer, OptimizerConfig


class Clock(Silent):
    """Notes when the first steps are over (caches are warm) and when the last one is."""

    def __init__(self, warm: int) -> None:
        self.warm, self.start, self.end = warm, 0.0, 0.0

    def step(self, session: Session, entry: dict[str, Any], seconds: float) -> None:
        """Look at the clock."""
        self.end = time.perf_counter()
        if entry["step"] == self.warm:
            self.start = self.end


def ours(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of seedfast's loop, with everything that a user's run has on."""
    clock = Clock(warm)
    with open_session(run, folder) as opened:
        opened.save = lambda: None  # type: ignore[method-assign]
        run_training(opened, clock)
    return (run.steps - warm) * run.batch_size * run.data.context / (clock.end - clock.start)


def torchs(optimizer: Optimizer) -> list[torch.optim.Optimizer]:
    """torch's own optimizers with the same groups and rates."""
    return [
        torch.optim.Muon(part.param_groups) if isinstance(part, torch.optim.Muon) else part for part in optimizer.parts
    ]


def plain(
    network: nn.Module, optimizers: list[torch.optim.Optimizer], tokens: Tensor, run: Run, warm: int, mask: int | None
) -> float:
    """Tokens per second of a plain loop: next-token prediction, or masked diffusion if there is a mask id."""
    torch.use_deterministic_algorithms(False)
    length, start = run.data.context, 0.0
    network.train()
    for step in range(run.steps):
        if step == warm:
            start = time.perf_counter()
        at = torch.randint(len(tokens) - length - 1, (run.batch_size,)).tolist()
        x = torch.stack([tokens[i : i + length] for i in at])
        if mask is None:
            y = torch.stack([tokens[i + 1 : i + 1 + length] for i in at])
            loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten())
        else:
            t = torch.rand(run.batch_size, 1)
            hidden = torch.rand(x.shape) < t
            ce = F.cross_entropy(network(x.masked_fill(hidden, mask)).transpose(1, 2), x, reduction="none")
            loss = (ce * hidden / t.clamp(min=1e-3)).mean()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        loss.item()  # what a loop prints
    return (run.steps - warm) * run.batch_size * length / (time.perf_counter() - start)


def main() -> None:
    """Measure both families and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--workers", type=int, default=0)
    arguments.add_argument("--optimizers", nargs="+", default=["muon", "adamw"])
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{'family':<20} {'optimizer':<10} {'plain/s':>9} {'seedfast/s':>11} {'ratio':>7}   (each round's ratio)")
    for recipe, kind in product(("text-autoregressive", "text-masked"), asked.optimizers):
        run = replace(
            recipes.make(recipe),
            data=TextData(path=asked.data, tokenizer="characters", context=64),
            model=Transformer(layers=4, heads=4, width=128),
            optimizer=OptimizerConfig(kind=kind, lr=1e-3),  # type: ignore[arg-type]
            clip=1.0,
            batch_size=12,
            steps=asked.steps,
            workers=asked.workers,
            eval_every=0,
            eval_examples=1,
        )
        warm, rates = asked.steps // 6, []
        for _ in range(asked.rounds):
            with tempfile.TemporaryDirectory() as folder:
                with open_session(run, Path(folder) / "plain") as opened:
                    network, optimizer = opened.state.network, opened.state.optimizer
                    stored = opened.corpus.train.batch(list(range(len(opened.corpus.train))))["tokens"][:, 1:]
                    mask = getattr(opened.family, "mask", None)
                slow = plain(network, torchs(optimizer), stored.flatten(), run, warm, mask)
                rates.append((slow, ours(run, Path(folder) / "ours", warm)))
        ratios = [b / a for a, b in rates]
        middle = [statistics.median(column) for column in zip(*rates, strict=True)]
        spread = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        row = f"{recipe:<20} {kind:<10} {middle[0]:>9,.0f} {middle[1]:>11,.0f} {statistics.median(ratios):>7.3f}"
        print(f"{row}   ({spread})", flush=True)


if __name__ == "__main__":
    main()
