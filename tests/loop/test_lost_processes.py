"""A group under torchrun that loses a process ends soon, with a sentence, and continues to the same bits."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.runs import flags, small_run

from seedfast.run_folder.checkpoint import Checkpoints
from seedfast.verify.resume import compare

LOST = "Another process of this training has ended, so process"
INTERRUPTED = "Interrupted and saved at step"


class Group:
    """Two processes that train in a folder."""

    def __init__(self, folder: Path, words: list[str], *options: str) -> None:
        self.folder, self._log = folder, folder.with_suffix(".log")
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, "-m", "seedfast"]
        with self._log.open("wb") as log:
            command = [*launch, *words, "--out", str(folder)]
            self.agent = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def until_saved(self) -> "Group":
        """Wait for a checkpoint of this group's own."""
        before = newest_step(self.folder)
        wait_until(lambda: newest_step(self.folder) > max(before, 0))
        return self

    @property
    def workers(self) -> list[int]:
        """The processes that train."""
        children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def end(self) -> str:
        """Wait until every process has ended; returns what they printed."""
        self.agent.wait(60)
        return self._log.read_text()


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint; -1 without one."""
    return max((checkpoint.step for checkpoint in Checkpoints(folder).committed()), default=-1)


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


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the processes of torchrun")
def test_a_group_that_loses_a_process_ends_and_continues_to_the_same_bits(story: Path, tmp_path: Path) -> None:
    words = ["train", "text-masked", *flags(small_run("text-masked", story, steps=300, eval_every=100, save_every=15))]
    assert INTERRUPTED not in Group(tmp_path / "whole", words, "--standalone").end()
    folder = tmp_path / "lost"

    with socket.socket() as free:  # the static rendezvous, whose store survives the restart
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = Group(folder, words, "--master-port", str(port), "--max-restarts", "1").until_saved()
    first = set(group.workers)
    os.kill(max(first), signal.SIGKILL)
    wait_until(lambda: len(group.workers) == 2 and not first & set(group.workers), 60)
    group.until_saved()
    os.kill(group.agent.pid, signal.SIGTERM)
    printed = group.end()
    assert LOST in printed
    assert INTERRUPTED in printed

    group = Group(folder, words, "--standalone").until_saved()
    os.kill(group.workers[0], signal.SIGKILL)
    assert f"{LOST} 1 of 2 stops too" in group.end()

    group = Group(folder, words, "--standalone").until_saved()
    orphans = group.workers
    os.kill(group.agent.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, orphans)), 60)
    assert INTERRUPTED in group.end()

    Group(folder, words, "--standalone").end()
    assert compare(tmp_path / "whole", folder)[0] is None
