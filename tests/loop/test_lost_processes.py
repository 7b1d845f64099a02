"""A group that loses a process, or waits for one that hangs, ends soon, with a sentence.

Under torchrun it continues to the same bits; without it, that is in test_distributed.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.helpers.processes import LIMIT, is_alive, ranks, start_ranks, wait_until
from tests.helpers.runs import flags, small_run

from seedfast.loop import lost_ranks
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.verify.resume import compare

LOST = "Another process of this training has ended, so process"
INTERRUPTED = "Interrupted and saved at step"


class Group:
    """Two processes that train in a folder."""

    def __init__(self, folder: Path, words: list[str], *options: str) -> None:
        self.folder, self._log = folder, folder.with_suffix(".log")
        self._events = lines(folder / "events.jsonl")
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, "-m", "seedfast"]
        with self._log.open("wb") as log:
            command = [*launch, *words, "--out", str(folder)]
            self.agent = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def until_training(self) -> "Group":
        """Wait for a step of this start of the group."""
        events, journal = self.folder / "events.jsonl", self.folder / "journal.jsonl"
        wait_until(lambda: lines(events) > self._events)
        self._events, steps = lines(events), lines(journal)
        wait_until(lambda: lines(journal) > steps)
        return self

    @property
    def workers(self) -> list[int]:
        """The processes that train."""
        children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def end(self, seconds: float = 60) -> str:
        """Wait until torchrun has ended, which it does after its processes; returns what they printed."""
        self.agent.wait(seconds)
        return self._log.read_text()


def lines(path: Path) -> int:
    """The number of lines; 0 of a missing file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes of torchrun in /proc")


@pytest.fixture(scope="module")
def words(story: Path) -> list[str]:
    """A training that takes longer than what happens to it."""
    run = small_run("text-masked", story, steps=100, eval_every=50, save_every=20)
    return ["train", "text-masked", *flags(run)]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert [rank.returncode for rank in ranks(2, *words, "--out", folder)] == [0, 0]
    return folder


def assert_continues(words: list[str], folder: Path, whole: Path) -> None:
    """Train to the end and compare every bit."""
    assert [rank.returncode for rank in ranks(2, *words, "--out", folder)] == [0, 0]
    assert compare(whole, folder)[0] is None


@pytest.fixture
def static_rendezvous() -> list[str]:
    """The options of the rendezvous whose store survives a restart."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return ["--master-port", str(free.getsockname()[1])]


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process_and_the_run_ends_with_the_same_bits(
    words: list[str], whole: Path, static_rendezvous: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    group = Group(folder, words, *static_rendezvous, "--max-restarts", "1").until_training()
    os.kill(max(group.workers), signal.SIGKILL)
    assert LOST in group.end(LIMIT)
    assert group.agent.returncode == 0
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert "resumed" in events
    assert events[-1] == "finished"
    assert compare(whole, folder)[0] is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_restarted_group_ends_at_a_signal_to_torchrun(
    number: signal.Signals, words: list[str], whole: Path, static_rendezvous: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    handled = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    group = Group(folder, words, *static_rendezvous, *handled, "--max-restarts", "1").until_training()
    os.kill(max(group.workers), signal.SIGKILL)
    group.until_training()
    os.kill(group.agent.pid, number)
    printed = group.end()
    assert LOST in printed
    assert INTERRUPTED in printed
    assert_continues(words, folder, whole)


@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_hangs_is_named_and_every_rank_ends(hung: int, words: list[str], tmp_path: Path) -> None:
    """Rank 0 has the store in which the others report, where torchrun has none."""
    folder = tmp_path / "run"
    group = start_ranks(3, "seedfast", [*words, "--out", folder, "--rank-timeout", "0.05"])
    try:
        group[0].wait_for(lambda: lines(folder / "journal.jsonl") > 2)
        os.kill(group[hung].pid, signal.SIGSTOP)
        others = [command.finish(60) for rank, command in enumerate(group) if rank != hung]
        assert [done.returncode for done in others] == [3, 3]
        named = f"Process {hung} of 3 did not arrive within 0.05 minutes (--rank-timeout)"
        assert [named in done.stderr for done in others] == [True, False]
        assert not any("Traceback" in done.stderr for done in others)
        os.kill(group[hung].pid, signal.SIGCONT)
        late = group[hung].finish(60)
        assert late.returncode == 3
        assert "Traceback" not in late.stderr
    finally:
        for command in group:
            command.process.kill()
    assert Checkpoints(folder).newest() is not None


def test_every_error_of_a_collective_without_an_answer_is_one_of_the_group() -> None:
    """Gloo says it in two ways: of the operation whose time was over, and of those beside it."""
    store, limit = dist.HashStore(), timedelta(seconds=0.3)
    with ThreadPoolExecutor(2) as pool:
        waiting, silent = pool.map(lambda rank: dist.ProcessGroupGloo(store, rank, 2, limit), range(2))
    operations = [waiting.recv([torch.zeros(1)], 1, tag) for tag in range(2)]
    for operation in operations:
        with pytest.raises(RuntimeError) as error:
            operation.wait()
        assert lost_ranks.is_of_group(error.value)
        assert lost_ranks.has_waited(error.value)
    assert not lost_ranks.is_of_group(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    del silent


@pytest.mark.slow
def test_a_group_ends_when_a_process_or_torchrun_is_killed(words: list[str], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    group = Group(folder, words, "--standalone").until_training()
    os.kill(group.workers[0], signal.SIGKILL)
    assert f"{LOST} 1 of 2 stops too" in group.end()

    group = Group(folder, words, "--standalone").until_training()
    orphans = group.workers
    os.kill(group.agent.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, orphans)), 60)
    assert INTERRUPTED in group.end()
    assert_continues(words, folder, whole)
