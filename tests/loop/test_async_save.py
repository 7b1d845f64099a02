"""Saving beside the training: the same bits, in order, from a copy; and failures that only delay a checkpoint."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.runs import StopAt, small_run, train_in

from seedfast.errors import TrainingStopped
from seedfast.loop import save as save_module
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.tensors import Staging
from seedfast.run_folder.train_state import TrainState, digest, read_tensors

SMALL: dict[str, Any] = {"steps": 12, "eval_every": 4, "save_every": 1, "keep": 30}


@pytest.fixture(scope="module")
def run(story: Path) -> Run:
    """A run that saves after every step."""
    return small_run("text-masked", story, **SMALL)


@pytest.fixture(scope="module")
def beside(run: Run) -> Run:
    """The same run, saved while the training goes on."""
    return replace(run, async_save=True)


@pytest.fixture(scope="module")
def at_once(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run trained with synchronous saving."""
    folder = tmp_path_factory.mktemp("at-once") / "run"
    train_in(folder, run)
    return folder


@pytest.fixture
def slow_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits that take several steps, so that the training is ahead of its checkpoints."""
    commit = Session.commit

    def slow(self: Session, snapshot: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        commit(self, snapshot)

    monkeypatch.setattr(Session, "commit", slow)


def left_behind(folder: Path) -> dict[str, Any]:
    """All of a run but its times: every checkpoint, the journal, the pointers."""
    entries = [{key: value for key, value in entry.items() if key != "time"} for entry in journal.read(folder)]
    committed = Checkpoints(folder).committed()
    return {
        "tensors": {each.step: digest(read_tensors(each.folder)) for each in committed},
        "states": {each.step: (each.folder / "state.json").read_text() for each in committed},
        "journal": entries,
        "journal sizes": [each.manifest.journal > 0 for each in committed],
        "validations": {each.step: each.manifest.validation for each in committed},
        "pointers": [(folder / name).read_text() for name in ("best.json", "latest.json")],
    }


@pytest.mark.usefixtures("slow_commits")
def test_saving_beside_the_training_leaves_the_same_checkpoints_journal_and_pointers(
    beside: Run, at_once: Path, tmp_path: Path
) -> None:
    train_in(tmp_path / "run", beside)
    assert left_behind(tmp_path / "run") == left_behind(at_once)


@pytest.mark.usefixtures("slow_commits")
def test_twin_a_snapshot_that_is_no_copy_is_found(
    beside: Run, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = TrainState.snapshot
    monkeypatch.setattr(TrainState, "snapshot", lambda self, staging=None: copy(self))
    train_in(tmp_path / "run", beside)
    assert left_behind(tmp_path / "run")["tensors"] != left_behind(at_once)["tensors"]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Step of each commit, and whether a thread beside the training made it; asserts that it is alone."""
    commits: list[tuple[int, bool]] = []
    running, commit = threading.Lock(), Checkpoints.save

    def save(self: Checkpoints, step: int, write: Callable[..., Any], facts: Mapping[str, Any]) -> None:
        assert running.acquire(blocking=False), "two saves at once"
        commit(self, step, write, facts)
        running.release()
        commits.append((step, threading.current_thread() is not threading.main_thread()))

    monkeypatch.setattr(Checkpoints, "save", save)
    return commits


@pytest.mark.usefixtures("slow_commits")
def test_one_save_is_in_flight_and_commits_keep_their_order(
    beside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = watched(monkeypatch)
    train_in(tmp_path / "run", beside)
    assert commits == [(0, False), *((step, True) for step in range(1, 12)), (12, False)]


@pytest.mark.usefixtures("slow_commits")
def test_a_signal_to_stop_waits_for_the_save_in_flight(beside: Run, at_once: Path, tmp_path: Path) -> None:
    with open_session(beside, tmp_path / "run") as opened:
        assert run_training(opened, StopAt(7)).step == 7
    assert [each.step for each in Checkpoints(tmp_path / "run").committed()] == list(range(8))
    train_in(tmp_path / "run", beside)
    assert left_behind(tmp_path / "run") == left_behind(at_once)


@pytest.mark.usefixtures("slow_commits")
def test_a_training_that_ends_with_an_error_leaves_its_save_in_flight_committed(beside: Run, tmp_path: Path) -> None:
    class Failing(Silent):
        def step(self, session: Session, entry: Any, seconds: float) -> None:
            if entry["step"] == 6:
                raise TrainingStopped("stopped by the test")

    with pytest.raises(TrainingStopped, match="by the test"), open_session(beside, tmp_path / "run") as opened:
        run_training(opened, Failing())
    newest = Checkpoints(tmp_path / "run").newest()
    assert newest is not None
    assert newest.step == 5


def fail_commits(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Let the disk be full when the checkpoints of these steps have been written."""
    write = Session._write

    def failing(self: Session, snapshot: Any, folder: Path) -> Any:
        found = write(self, snapshot, folder)
        if snapshot.state.saved.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return found

    monkeypatch.setattr(Session, "_write", failing)


def test_a_failed_save_is_reported_removed_and_tried_again_and_is_never_the_best(
    beside: Run, at_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = replace(beside, save_every=12), tmp_path / "run"
    fail_commits(monkeypatch, {4, 5, 6})  # the first validation is the best so far
    monkeypatch.setattr(save_module.Retry, "due", lambda self: self._at < float("inf"))  # without waiting

    class LookAtBest(Silent):
        """The best validation as every later step knows it."""

        def __init__(self) -> None:
            self.best: dict[int, Any] = {}

        def step(self, session: Session, entry: Any, seconds: float) -> None:
            self.best[entry["step"]] = {record.step for record in session.committed_best.values()}

    look = LookAtBest()
    with open_session(run, folder) as opened:
        run_training(opened, look)
    assert capsys.readouterr().err.count("could not save a checkpoint") >= 1
    assert not list(folder.rglob(".seedfast-unfinished"))
    steps = [each.step for each in Checkpoints(folder).committed()]
    assert not {4, 5, 6} & set(steps)
    assert look.best[8] == set()
    best = json.loads((folder / "best.json").read_text())
    assert {record["step"] for record in best.values()} <= set(steps)
    found = left_behind(folder)
    assert found["tensors"][12] == left_behind(at_once)["tensors"][12]
    assert found["journal"] == left_behind(at_once)["journal"]


def test_a_failed_last_save_is_an_error(beside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_commits(monkeypatch, {12})
    with pytest.raises(TrainingStopped, match="could not be saved"):
        train_in(tmp_path / "run", beside)


def test_an_error_that_is_not_of_the_disk_is_not_hidden(
    beside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Session.commit

    def broken(self: Session, snapshot: Any) -> None:
        if snapshot.state.saved.step == 3:
            raise RuntimeError("a mistake of the program")
        commit(self, snapshot)

    monkeypatch.setattr(Session, "commit", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        train_in(tmp_path / "run", beside)


def test_the_journal_has_the_seconds_that_the_training_stood_still(at_once: Path) -> None:
    entries = [entry for entry in journal.read(at_once) if "loss" in entry]
    assert "saving" not in entries[0]["time"]
    assert all(entry["time"]["saving"] > 0 for entry in entries[1:])


def test_a_staging_memory_is_used_again_and_never_shares_memory_with_its_source() -> None:
    staging, source = Staging(), {"model": {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}}
    first = staging.copy(source)
    assert torch.equal(first["model"]["w"], source["model"]["w"])
    place = first["model"]["w"].data_ptr()
    source["model"]["w"].add_(1)
    assert not torch.equal(first["model"]["w"], source["model"]["w"])
    second = staging.copy({"model": {"w": source["model"]["w"], "n": torch.tensor(4)}})
    assert second["model"]["w"].data_ptr() == place
    assert torch.equal(second["model"]["w"], source["model"]["w"])
    assert int(second["model"]["n"]) == 4
    grown = staging.copy({"model": {"w": torch.zeros(4, dtype=torch.float64)}})["model"]
    assert (grown["w"].dtype, grown["w"].shape, list(grown)) == (torch.float64, (4,), ["w"])
