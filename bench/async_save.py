"""What a checkpoint costs the training: seconds of standing still and bytes, synchronous and asynchronous saving.

    python bench/async_save.py [--parameters 100] [--threads 2] [--folder FOLDER]

A transformer of about so many million parameters is trained with AdamW and an average of the weights, and saved every
few steps. Standing still is the `saving` of the journal: with --async-save the copy of the state, and the wait for a
save that is still in flight. The steps beside a save share the processor with it, so their time is shown too.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from common import parse, parser
from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.train import run_training
from seedfast.models.transformer import Transformer
from seedfast.optim.ema import EMA
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.train_state import digest, read_tensors


def benchmark_run(options: Any) -> Run:
    """Twelve layers, whose width gives about the parameters: 12 · layers · width² with an MLP of four widths."""
    layers = 12
    width = max(16, round((options.parameters * 1e6 / (12 * layers)) ** 0.5 / 64) * 64)
    return replace(
        recipes.make("text-autoregressive"),
        data=TextData(path=options.data, tokenizer="bytes", context=options.context),
        model=Transformer(layers=layers, heads=max(1, width // 64), width=width),
        optimizer=OptimizerConfig(kind="adamw", lr=1e-4),
        ema=EMA(half_life=100),
        batch_size=1,
        steps=options.saves * options.every + options.every - 1,
        eval_every=0,
        eval_examples=1,
        sample_every=0,
        save_every=options.every,
        keep=1,
    )


def measured(run: Run, folder: Path) -> tuple[str, str]:
    """Train; the row of a table, and the digest of the last checkpoint."""
    with open_session(run, folder) as session:
        run_training(session, Silent())
        parameters = sum(each.numel() for each in session.state.network.parameters())
    steps = [entry for entry in journal.read(folder) if "loss" in entry][2:]  # the first ones allocate their memory
    newest = Checkpoints(folder).committed()[-1]
    size = sum(each["size"] for each in newest.manifest.files.values())
    stalls = [entry["time"]["saving"] for entry in steps if "saving" in entry["time"]]
    every = run.save_every if isinstance(run.save_every, int) else 1
    beside = [entry["time"]["seconds"] for entry in steps if entry["step"] % every == 1 and entry["step"] > every]
    others = [entry["time"]["seconds"] for entry in steps if entry["step"] % every == 0]
    row = (
        f"| {'asynchronous' if run.async_save else 'synchronous'} | {parameters / 1e6:.0f} M | {size / 1e9:.3f} GB | "
        f"{stalls[0]:.3f} | {median(stalls[1:]):.3f} | {median(beside):.2f} | {median(others):.2f} |"
    )
    return row, digest(read_tensors(newest.folder))


def main() -> None:
    """Print one table."""
    made = parser(__doc__, threads=2)
    made.add_argument("--parameters", type=float, default=100, help="in millions (default 100)")
    made.add_argument("--saves", type=int, default=4, help="checkpoints of each training, beside the first and last")
    made.add_argument("--every", type=int, default=8, help="steps between them")
    made.add_argument("--context", type=int, default=256)
    made.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    made.add_argument("--folder", type=Path, help="where the run folders are made: the disk is part of the result")
    options = parse(made)
    run, digests = benchmark_run(options), []
    print(f"torch {torch.__version__}, {options.threads} threads, {options.saves} saves; seconds, medians")
    print("| saving | parameters | checkpoint | first stall | further stalls | step after a save | other step |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for beside in (False, True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row, found = measured(replace(run, async_save=beside), Path(folder) / "run")
        digests.append(found)
        print(row, flush=True)
    print(f"the same bits: {digests[0] == digests[1]}")


if __name__ == "__main__":
    main()
