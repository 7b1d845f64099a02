"""What several benchmarks share: the command line's usual options, a clock, the speed of seedfast's loop, a server."""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.run_folder.journal import StepEntry


def parser(description: str | None, *, threads: int) -> argparse.ArgumentParser:
    """A command line with the docstring of the benchmark as its help, and `--threads`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=threads, help=f"threads of each operation (default {threads})")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    options = made.parse_args(arguments)
    torch.set_num_threads(options.threads)
    return options


def environment(threads: int) -> dict[str, str]:
    """The environment of a command that is timed: as installed, with the bytecode of modules stored."""
    variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def seconds_until(
    part: bytes, command: list[str], run_folder: Path, variables: Mapping[str, str], *, then_kill: bool = False
) -> float:
    """Seconds from the start of a command until the journal of its run has a part; it has ended afterwards.

    then_kill: do not wait for its own end. The journal's lines are not parsed, which would slow the training. Raises
    RuntimeError if the command fails, or its journal never has that part.
    """
    journal, began, seconds = run_folder / "journal.jsonl", time.perf_counter(), None
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if seconds is None and journal.exists() and part in journal.read_bytes():
                seconds = time.perf_counter() - began
                if then_kill:
                    process.kill()
            time.sleep(0.05)
    if seconds is None or (process.returncode and not then_kill):
        raise RuntimeError(f"the training ended with status {process.returncode}; {part!r} was seen after {seconds} s")
    return seconds


class Clock(Silent):
    """Measures the time from the end of step `warm`, when caches are filled, to the end of the last step."""

    def __init__(self, warm: int) -> None:
        self.warm, self.start, self.end = warm, 0.0, 0.0

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Read the clock after a step."""
        self.end = time.perf_counter()
        if entry["step"] == self.warm:
            self.start = self.end


def tokens_per_second(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of seedfast's loop with everything that a user's run has on, except checkpoints.

    warm: steps at the beginning that are not measured.
    """
    clock = Clock(warm)
    with open_session(run, folder) as session:
        session.save = lambda: None  # type: ignore[method-assign]
        run_training(session, clock)
    return (run.steps - warm) * run.batch_size * run.data.context / (clock.end - clock.start)


@contextmanager
def server(*words: object) -> Iterator[str]:
    """The URL that a command of seedfast prints, which answers there until SIGTERM."""
    command = [sys.executable, "-m", "seedfast", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                break
        if found is None:
            raise SystemExit("the server does not start")
        try:
            yield found[0]
        finally:
            process.terminate()
            assert process.wait(60) == 0, "the server does not end in order"
