"""Two nodes, each a network namespace of Linux: rendezvous, training, a cable that is cut."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.processes import LIMIT, ranks
from tests.helpers.runs import flags, small_run

from seedfast.verify.resume import compare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="only root makes network namespaces (ip)"),
]
ADDRESS = "10.213.77"


class Cluster:
    """Two namespaces with one interface each."""

    def __init__(self, name: str) -> None:
        self.nodes = [f"{name}a", f"{name}b"]
        for node in self.nodes:
            ip("netns", "add", node)
        ip(
            "link",
            "add",
            "cable",
            "netns",
            self.nodes[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            self.nodes[1],
        )
        for number, node in enumerate(self.nodes, start=1):
            ip("-n", node, "addr", "add", f"{ADDRESS}.{number}/24", "dev", "cable")
            ip("-n", node, "link", "set", "lo", "up")
        self.plug(True)

    def plug(self, connected: bool) -> None:
        """Connect the nodes, or cut the cable."""
        for node in self.nodes:
            ip("-n", node, "link", "set", "cable", "up" if connected else "down")

    def start(self, number: int, folder: Path, words: list[str], port: int) -> subprocess.Popen[bytes]:
        """torchrun on a node, with one process."""
        launch = ["ip", "netns", "exec", self.nodes[number], sys.executable, "-m", "torch.distributed.run"]
        group = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number), "--max-restarts", "3"]
        place = ["--master-addr", f"{ADDRESS}.1", "--master-port", str(port)]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable"}
        with folder.with_suffix(f".{number}.{port}.log").open("wb") as log:
            command = [*launch, *group, *place, "-m", "seedfast", *words, "--out", str(folder)]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def remove(self) -> None:
        """Remove the namespaces, and the cable with them."""
        for node in self.nodes:
            for process in ip("netns", "pids", node).split():
                os.kill(int(process), signal.SIGKILL)
            ip("netns", "del", node)


def ip(*words: str) -> str:
    """Run `ip`, and return what it prints."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two connected nodes."""
    made = Cluster(f"sf{os.getpid()}")
    try:
        yield made
    finally:
        made.remove()


def until_a_new_step(folder: Path, agents: list["subprocess.Popen[bytes]"]) -> None:
    """Wait until the journal of a run grows."""
    journal, end = folder / "journal.jsonl", time.monotonic() + LIMIT
    before = size = journal.stat().st_size if journal.exists() else 0
    while size <= before:
        assert time.monotonic() < end
        assert all(agent.poll() is None for agent in agents)
        time.sleep(0.05)
        size = journal.stat().st_size if journal.exists() else 0


def test_two_nodes_survive_a_cut_cable(cluster: Cluster, story: Path, tmp_path: Path) -> None:
    """First for seconds, over which TCP waits; then for good, after which both nodes are started again."""
    run = small_run("text-masked", story, steps=400, eval_every=200, save_every=50)
    words = ["train", "text-masked", *flags(run)]
    assert [rank.returncode for rank in ranks(2, *words, "--out", tmp_path / "whole")] == [0, 0]
    folder = tmp_path / "run"
    agents = [cluster.start(number, folder, words, 29411) for number in range(2)]
    until_a_new_step(folder, agents)

    cluster.plug(False)
    time.sleep(2)
    size = (folder / "journal.jsonl").stat().st_size
    time.sleep(1)
    assert (folder / "journal.jsonl").stat().st_size == size, "without a cable nothing is trained"
    cluster.plug(True)
    until_a_new_step(folder, agents)

    cluster.plug(False)
    for node in cluster.nodes:
        for process in ip("netns", "pids", node).split():
            os.kill(int(process), signal.SIGKILL)
    assert [agent.wait(60) for agent in agents] == [-signal.SIGKILL] * 2
    cluster.plug(True)
    agents = [cluster.start(number, folder, words, 29412) for number in range(2)]
    assert [agent.wait(LIMIT) for agent in agents] == [0, 0]
    assert compare(tmp_path / "whole", folder)[0] is None
