"""Workers answer tasks side by side, pass on what is wrong, and end with whoever started them."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.processes import is_alive, wait_until

from seedfast import UserError
from seedfast.errors import TrainingStopped
from seedfast.workers import WorkerEnded, Workers

MODULE = "tests.helpers.working"
PARENT = """
import sys
from seedfast.workers import Workers
with Workers("tests.helpers.working", 2, None) as workers:
    list(workers.results([["wait", sys.argv[1]]] * 2))
"""


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_every_task_is_answered_once(processes: int) -> None:
    tasks = [["number", number] for number in range(5)]
    with Workers(MODULE, processes, "é") as workers:
        assert sorted(workers.results(tasks)) == [(number, ["é", task]) for number, task in enumerate(tasks)]
        assert list(workers.results([])) == []
        assert list(workers.results(["more"])) == [(0, ["é", "more"])]


def test_a_worker_has_its_environment() -> None:
    with Workers(MODULE, 1, None, {"SEEDFAST_OF_A_TEST": "yes"}) as workers:
        assert list(workers.results([["environment", "SEEDFAST_OF_A_TEST"]])) == [(0, "yes")]


def test_what_a_task_tells_arrives_before_its_answer() -> None:
    heard: list[tuple[int, Any]] = []
    with Workers(MODULE, 2, None) as workers:
        for number, _ in workers.results(
            [["tell", *range(50)], ["tell", "a", "b"]], told=lambda *each: heard.append(each)
        ):
            heard.append((number, "done"))
    assert [value for number, value in heard if number == 0] == [*range(50), "done"]
    assert [value for number, value in heard if number == 1] == ["a", "b", "done"]


@pytest.mark.parametrize(("task", "error"), [("refuse", UserError), ("stop", TrainingStopped)])
def test_the_error_of_a_task_is_raised(
    task: str, error: type[Exception], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another worker, which is busy, is interrupted."""
    with Workers(MODULE, 2, None) as workers, pytest.raises(error, match=r"^this is wrong$"):
        next(workers.results([["wait", str(tmp_path)], [task, "this is wrong"], ["more"]]))
    assert "Traceback" not in capfd.readouterr().err
    assert len(list(tmp_path.glob("begun-*"))) <= len(list(tmp_path.glob("saved-*"))) <= 1


def test_an_error_before_the_first_task_is_raised() -> None:
    with Workers(MODULE, 1, "refuse") as workers, pytest.raises(UserError, match="these tasks are refused"):
        list(workers.results(["one"]))


def test_a_worker_that_dies_is_reported_with_its_task() -> None:
    with Workers(MODULE, 1, None) as workers, pytest.raises(WorkerEnded) as caught:
        list(workers.results(["one", ["die"], "three"]))
    assert (caught.value.task, caught.value.status) == (1, -signal.SIGKILL)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_as_by_ctrl_c_when_their_parent_does(end: signal.Signals, tmp_path: Path) -> None:
    """Also where a shell has begun all of them with SIGINT ignored, as it does in the background."""
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if end == signal.SIGKILL else ""
    parent = subprocess.Popen([sys.executable, "-c", ignored + PARENT, tmp_path], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    parent.send_signal(end)
    _, error = parent.communicate(timeout=60)
    wait_until(lambda: len(list(tmp_path.glob("saved-*"))) == 2)
    workers = [int(path.name.removeprefix("saved-")) for path in tmp_path.glob("saved-*")]
    wait_until(lambda: not any(map(is_alive, workers)))
    assert error.count("Traceback") == (end == signal.SIGINT), "of the parent alone"
