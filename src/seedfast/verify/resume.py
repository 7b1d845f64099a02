"""The proof that a run which is killed ends with the same bits: train, train again with kills, compare everything."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from seedfast.errors import UserError
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.train_state import digest, read_tensors
from seedfast.verify.saboteur import Moment, Plan


@dataclass(frozen=True)
class Certificate:
    """What was compared and how it came out. `difference` is None if everything was equal."""

    steps: int
    kills: list[str]
    digest: str
    difference: str | None
    compared: list[str] = field(default_factory=list)


def prove_resume(
    arguments: Sequence[str],
    *,
    kills: int,
    folder: Path,
    seed: int = 1,
    say: Callable[[str], None] = print,
    execute: "Execute | None" = None,
) -> Certificate:
    """Train `seedfast train ARGUMENTS` in two folders below `folder`, the second one killed `kills` times.

    The instants are chosen by `seed`, one kind after the other: inside a step (at a random moment), while a
    checkpoint is written, at its rename, inside an evaluation, and so on. execute: starts the processes (default:
    `in_a_new_interpreter`).
    Raises UserError if the training fails by itself.
    """
    whole, killed = folder / "whole", folder / "killed"

    def train(program: str, *plan: str, out: Path) -> int:
        command = [sys.executable, "-m", program, *plan, "train", *arguments, "--no-report", "--out", str(out)]
        # The same number of threads in every process: another one would add in another order.
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        status, stderr = (execute or in_a_new_interpreter)(command, os.environ | threads)
        if status not in (0, -signal.SIGKILL):
            raise UserError(f"The training that was to be verified failed by itself: {stderr.strip()}")
        return status

    say(f"training without interruption in {whole}")
    train("seedfast", out=whole)
    steps = _newest(whole).step
    done = []
    for plan in plans(kills, steps, seed):
        status = train("seedfast.verify.saboteur", plan.encode(), out=killed)
        if status != -signal.SIGKILL:
            say(f"the run ended before it could be killed at {plan.moment} after step {plan.after}")
            continue
        done.append(f"{plan.moment} after step {plan.after}" + (f" + {plan.delay * 1e3:.1f} ms" if plan.delay else ""))
        say(f"killed at {done[-1]}")
    train("seedfast", out=killed)
    if len(done) < kills:
        raise UserError(
            f"Only {len(done)} of {kills} kills could be placed in {steps} steps; ask for more --steps or "
            "fewer --kills."
        )
    difference, compared = compare(whole, killed)
    return Certificate(steps, done, digest(read_tensors(_newest(killed).folder)), difference, compared)


def plans(kills: int, steps: int, seed: int) -> list[Plan]:
    """Where to kill: ever later steps, every kind of moment in turn."""
    chooser = random.Random(seed)  # chooses when to kill, outside of the run; the run itself draws by key alone
    kinds: tuple[Moment, ...] = get_args(Moment)
    after = sorted(chooser.randrange(max(1, steps)) for _ in range(kills))
    return [
        Plan(kind, step, delay=chooser.uniform(0, 0.03) if kind in ("step", "validate") else 0.0)
        for kind, step in ((kinds[index % len(kinds)], step) for index, step in enumerate(after))
    ]


Execute = Callable[[Sequence[str], Mapping[str, str]], tuple[int, str]]
"""Runs a command in an environment; returns its status and standard error."""


def in_a_new_interpreter(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run a command in a process that shares nothing with this one, not even the seed of hashes."""
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
    return result.returncode, result.stderr


def compare(first: Path, second: Path) -> tuple[str | None, list[str]]:
    """The first difference between two finished runs in words (None: equal), and what was compared."""
    one, two = _newest(first), _newest(second)
    if one.step != two.step:
        return f"one run ended at step {one.step}, the other at {two.step}", []
    tensors, others = read_tensors(one.folder), read_tensors(two.folder)
    count = 0
    for group, named in tensors.items():
        for name, tensor in named.items():
            other = others.get(group, {}).get(name)
            # Bits, not values: -0.0 equals 0.0 and NaN differs from itself, but both must have the same bytes.
            if other is None or tensor.dtype != other.dtype or _bytes(tensor) != _bytes(other):
                return f"the first differing tensor is {group}/{name}; {_first_step(first, second)}", []
            count += 1
    for path in ("state.json", "run.yaml", "data.json"):
        if (one.folder / path).read_bytes() != (two.folder / path).read_bytes():
            return f"{path} differs", []
    lines, other_lines = (
        [_timeless(entry) for entry in journal.read(first)],
        [_timeless(e) for e in journal.read(second)],
    )
    if lines != other_lines:
        return f"the journals differ; {_first_step(first, second)}", []
    if (first / "best.json").read_bytes() != (second / "best.json").read_bytes():
        return "best.json differs", []
    return None, [f"{count} tensors", "schedule and counters", f"{len(lines)} journal lines", "best.json"]


def _newest(folder: Path) -> Checkpoint:
    checkpoint = Checkpoints(folder).newest()
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint to compare.")
    return checkpoint


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _timeless(entry: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in entry.items() if key != "time"}, sort_keys=True)


def _first_step(first: Path, second: Path) -> str:
    for one, two in zip(journal.read(first), journal.read(second), strict=False):
        if _timeless(one) != _timeless(two):
            return f"the first differing journal line is that of step {one['step']}"
    return "the common part of the journals is equal"
