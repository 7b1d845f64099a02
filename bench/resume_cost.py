"""Seconds until the first optimizer step of a new run, and of runs that resume at step 100 and at step 100,000.

The first line prepares the data (tokenizer included) in an empty cache; the others find them there. Each line is a new
process, timed from its launch, so it includes imports.

    python bench/resume_cost.py [--data PATH] [--model FOLDER] [--threads 2] [--only "resume at 100"]

With --model, a pretrained model is fine-tuned instead.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from seedfast import recipe
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.run_folder.journal import SamplesEntry, StepEntry

LINES = {"empty cache": 0, "warm cache": 0, "resume at 100": 100, "at 100,000": 100_000}
"""The lines of the table, and the step at which their runs begin."""


class FirstStep(Exception):
    """The first optimizer step is over."""


class StopAfterFirstStep(Silent):
    """Ends the training with `FirstStep`."""

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Stop."""
        raise FirstStep


def benchmark_run(data: str, model: str | None, *, tiny: bool) -> Run:
    """The default recipe (or the fine-tuning of a model) on this data, with an end that is never reached."""
    fields: dict[str, Any] = {"steps": 200_000, "data.path": data}
    if tiny:
        fields |= {"data.tokenizer": "bytes", "model.layers": 1, "model.heads": 2, "model.width": 16}
    return (
        recipe("finetune", **fields, **{"model.path": model, "data.context": 64})
        if model
        else recipe("text-masked", **fields)
    )


def write_checkpoint(folder: Path, run: Run, step: int) -> None:
    """Create a run folder whose newest checkpoint is of that step."""
    with open_session(run, folder) as session:
        session.state.step = step
        session.record(SamplesEntry(step=step, samples=[]))  # the journal must end at the step of the checkpoint
        session.save()


def seconds_to_first_step(folder: Path, arguments: list[str], cache: str) -> float:
    """Launch a process that opens the run and takes one step."""
    start = time.perf_counter()
    command = [sys.executable, __file__, *arguments, "--open", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"SEEDFAST_CACHE": cache})
    return time.perf_counter() - start


def main() -> None:
    """Print the table or, with --open, be one of the timed processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    parser.add_argument("--model", help="the folder of a causal language model to fine-tune")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--tiny", action="store_true", help="a small network on bytes, to test the script")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = benchmark_run(arguments.data, arguments.model, tiny=arguments.tiny)
    if arguments.open:
        try:
            with open_session(run, arguments.open) as session:
                run_training(session, StopAfterFirstStep())
        except FirstStep:
            return
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ["SEEDFAST_CACHE"] = f"{folder}/cache"
        for name in arguments.only:
            run_folder = Path(folder) / name
            if LINES[name]:
                write_checkpoint(run_folder, run, LINES[name])
            print(f"{name:<16} {seconds_to_first_step(run_folder, sys.argv[1:], cache):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
