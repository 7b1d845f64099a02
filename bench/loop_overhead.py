"""Tokens per second of seedfast's loop against a plain PyTorch loop of the same network, batch size and optimizers.

Both run in this process, in turns, so that a noisy machine affects both. The plain loop is a usual training script:
random windows, forward, cross-entropy, backward, clip_grad_norm_, torch.optim.Muon and torch.optim.AdamW; no journal,
no moving average, no keyed randomness, no check for NaN, no deterministic algorithms. seedfast's loop has all of these.
Prints the ratio for each family and optimizer: above 1, seedfast is faster. torch.optim.Muon iterates in bfloat16; the
first line prints whether this processor multiplies in it or emulates it.

    python bench/loop_overhead.py [--data FILE] [--threads 2] [--rounds 7] [--steps 60] [--optimizers muon adamw]
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import parse, parser, tokens_per_second
from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.families.text.masked import MaskedObjective
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.models.transformer import Transformer
from seedfast.optim import muon
from seedfast.optim.adamw import AdamW
from seedfast.optim.muon import StackedMuon
from seedfast.optim.optimizer import Optimizer, OptimizerConfig
from seedfast.optim.update_rule import UpdateRule

TORCH: dict[type[UpdateRule], Callable[[Any], torch.optim.Optimizer]] = {
    StackedMuon: torch.optim.Muon,
    AdamW: torch.optim.AdamW,
}
"""torch's own optimizer for each part of seedfast's."""


def torch_optimizers(optimizer: Optimizer) -> list[torch.optim.Optimizer]:
    """New optimizers of torch with the parameter groups and hyperparameters of seedfast's."""
    return [TORCH[type(part)]([dict(group) for group in part.param_groups]) for part in optimizer.parts]


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
        starts = torch.randint(len(tokens) - length - 1, (run.batch_size,)).tolist()
        x = torch.stack([tokens[i : i + length] for i in starts])
        if mask is None:
            y = torch.stack([tokens[i + 1 : i + 1 + length] for i in starts])
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
        loss.item()  # a plain loop prints it
    return (run.steps - warm) * run.batch_size * length / (time.perf_counter() - start)


def plain_tokens_per_second(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of the plain loop, with the network and the data of the run."""
    with open_session(run, folder) as session:
        network, optimizer = session.state.network, session.state.optimizer
        stored = session.corpus.train.batch(list(range(len(session.corpus.train))))["tokens"][:, 1:]
        objective = session.family.objective
    mask = objective.mask if isinstance(objective, MaskedObjective) else None
    return plain(network, torch_optimizers(optimizer), stored.flatten(), run, warm, mask)


def the_run(recipe: str, *, kind: str, data: str, steps: int, workers: int, width: int) -> Run:
    """The measured run."""
    return replace(
        recipes.make(recipe),
        data=TextData(path=data, tokenizer="characters", context=64),
        model=Transformer(layers=4, heads=4, width=width),
        optimizer=OptimizerConfig(kind=kind, lr=1e-3),  # type: ignore[arg-type]
        clip=1.0,
        batch_size=12,
        steps=steps,
        workers=workers,
        eval_every=0,
        sample_every=0,
        eval_examples=1,
    )


def main() -> None:
    """Measure both families with each optimizer and print a table."""
    made = parser(__doc__, threads=2)
    made.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--steps", type=int, default=60)
    made.add_argument("--width", type=int, default=128)
    made.add_argument("--workers", type=int, default=0)
    made.add_argument("--optimizers", nargs="+", choices=["muon", "adamw"], default=["muon", "adamw"])
    options = parse(made)
    emulated = muon.orthogonalisation_dtype("cpu") != torch.bfloat16
    print(f"{options.threads} threads; plain: torch.optim; bfloat16 is {'emulated' if emulated else 'native'}")
    print(f"{'family':<20} {'optimizer':<10} {'plain/s':>9} {'seedfast/s':>11} {'ratio':>7}   (each round's ratio)")
    for recipe, kind in product(("text-autoregressive", "text-masked"), options.optimizers):
        shape = {"steps": options.steps, "workers": options.workers, "width": options.width}
        run = the_run(recipe, kind=kind, data=options.data, **shape)
        warm, rates = max(1, options.steps // 6), []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                slow = plain_tokens_per_second(run, Path(folder) / "plain", warm)
                rates.append((slow, tokens_per_second(run, Path(folder) / "ours", warm)))
        ratios = [b / a for a, b in rates]
        middle = [statistics.median(column) for column in zip(*rates, strict=True)]
        spread = " ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        row = f"{recipe:<20} {kind:<10} {middle[0]:>9,.0f} {middle[1]:>11,.0f} {statistics.median(ratios):>7.3f}"
        print(f"{row}   ({spread})", flush=True)


if __name__ == "__main__":
    main()
