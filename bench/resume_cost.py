"""Seconds until the first optimizer step of a run that starts, and of runs that continue at step 100 and at 100,000.

The first line prepares the data (tokenizer included) in an empty cache, the others find them there. Each is a fresh
process, timed from its launch, so that imports count too.

    python bench/resume_cost.py [--data PATH] [--model FOLDER] [--threads 2]

With --model, a pretrained model is fine-tuned instead.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seedfast import recipes
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training


class FirstStep(Exception):
    """The first optimizer step is over."""


class Until(Silent):
    """Ends the training at the first step."""

    def step(self, session: Session, entry: dict[str, Any], seconds: float) -> None:
        """Stop."""
        raise FirstStep


def the_run(data: str, model: str | None) -> Run:
    """The default recipe (or a fine-tuning of a model), on this data, with an end far away."""
    run = recipes.make("finetune" if model else "text-masked")
    if model:
        run = replace(run, model=replace(run.model, path=model), data=replace(run.data, context=64))
    return replace(run, steps=200_000, data=replace(run.data, path=data))


def place_at(folder: Path, run: Run, step: int) -> None:
    """Make a run folder whose newest checkpoint is of that step."""
    with open_session(run, folder) as opened:
        opened.state.step = step
        opened.journal.record({"step": step})  # type: ignore[union-attr]
        opened.save()


def seconds_to_first_step(folder: Path, words: list[str], cache: str) -> float:
    """Launch a process that opens the run and takes one step."""
    began = time.perf_counter()
    command = [sys.executable, __file__, *words, "--open", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"SEEDFAST_CACHE": cache})
    return time.perf_counter() - began


def main() -> None:
    """Print the table, or be one of its processes."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    arguments.add_argument("--model", help="the folder of a causal language model to fine-tune")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    run = the_run(asked.data, asked.model)
    if asked.open:
        try:
            with open_session(run, asked.open) as opened:
                run_training(opened, Until())
        except FirstStep:
            return
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ["SEEDFAST_CACHE"] = f"{folder}/cache"
        for what, step in (("empty cache", 0), ("warm cache", 0), ("continue at 100", 100), ("at 100,000", 100_000)):
            place = Path(folder) / what
            if step:
                place_at(place, run, step)
            print(f"{what:<16} {seconds_to_first_step(place, sys.argv[1:], cache):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
