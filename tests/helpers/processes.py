"""Processes of seedfast that start at once: a server that has imported PyTorch forks one for each command.

Each is a real process with its own standard streams, which can be killed; only the seconds of imports are shared.
Tests of what an interpreter does at its start use `subprocess`.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LIMIT = 300
"""Seconds after which a process is given up, on any slow machine."""
_PRELOADED = [
    "torch._dynamo",
    "torch.distributed",
    "tyro",
    "rich.console",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "seedfast.cli.train",
    "seedfast.cli.sample",
    "seedfast.cli.evaluate",
    "seedfast.api",
    "seedfast.recipes.caption",
    "seedfast.recipes.finetune",
    "seedfast.recipes.image",
    "seedfast.recipes.text",
    "seedfast.report.page",
    "transformers.models.gpt2.modeling_gpt2",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


class Command:
    """A running command: a module, a script, or "-c" and its code, with its arguments."""

    def __init__(
        self, module: str, words: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """cwd, env: of the process (default: those of this one)."""
        self._folder = TemporaryDirectory()
        self.stdout, self.stderr = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        self.words = [module, *map(str, words)]
        arguments = (self.words, cwd or Path.cwd(), dict(os.environ if env is None else env), self.stdout, self.stderr)
        self.process: ForkServerProcess = _context.Process(target=_run, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        """Its number, for signals."""
        assert self.process.pid is not None
        return self.process.pid

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds while the command runs."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end
            assert self.process.is_alive(), self.finish().stderr
            time.sleep(0.02)

    def finish(self, timeout: float = LIMIT) -> "subprocess.CompletedProcess[str]":
        """Wait for its end. The status is negative after a signal, as in `subprocess`."""
        self.process.join(timeout)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.words, timeout)
        shown = [path.read_bytes().decode() for path in (self.stdout, self.stderr)]
        return subprocess.CompletedProcess(self.words, status, *shown)


def seedfast(
    *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run a command of seedfast. check: raise CalledProcessError unless its status is 0."""
    done = Command("seedfast", words, cwd=cwd, env=env).finish()
    if check:
        done.check_returncode()
    return done


def python(code: str, *words: str | Path, env: Mapping[str, str] | None = None) -> Command:
    """Start Python code with these arguments, as `python -c` does."""
    return Command("-c", [code, *words], env=env)


def ranks(
    count: int, *words: str | Path, own: Sequence[str] = (), cwds: Sequence[Path] = ()
) -> list["subprocess.CompletedProcess[str]"]:
    """Run a command of seedfast as this many ranks of one group, in the environment that torchrun would give them.

    own: further words of the last rank. cwds: the folder of each rank (default: that of this process).
    """
    return [command.finish() for command in start_ranks(count, "seedfast", words, own=own, cwds=cwds)]


def start_ranks(
    count: int,
    module: str,
    words: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    *,
    own: Sequence[str] = (),
    cwds: Sequence[Path] = (),
) -> list[Command]:
    """Start a module as this many ranks of one group. env: as in `Command`. own, cwds: as in `ranks`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base = {**(os.environ if env is None else env), **group}
    return [
        Command(
            module,
            [*words, *(own if rank == count - 1 else ())],
            cwd=cwds[rank] if cwds else None,
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def run_killed_or_whole(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """What `seedfast.verify.resume.in_a_new_interpreter` does, in a process that starts at once."""
    assert command[:2] == [sys.executable, "-m"]
    done = Command(command[2], command[3:], env=env).finish()
    return done.returncode, done.stderr


def _run(words: list[str], cwd: Path, env: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Become the command, in the forked process."""
    gc.freeze()  # no search for garbage among the imported modules, which would also copy their memory
    for path, number in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = list(words)
    if words[0] == "-c":
        sys.argv.pop(1)
        exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})
    elif words[0].endswith(".py"):
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.path.insert(0, str(cwd))
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
