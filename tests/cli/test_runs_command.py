"""`seedfast runs`, `seedfast journal` and `seedfast clean`: what is here, its numbers, and what is not needed."""

import csv
import io
import json
import os
import re
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.cli import seedfast
from tests.helpers.run_folders import make, score, step, validation
from tests.helpers.runs import small_run, train_in

import seedfast as seedfast_api
from seedfast.errors import UserError
from seedfast.report.run_folder import read
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import Weights
from seedfast.run_folder.listing import RunSummary, runs_below, summary


def of(folder: Path, *events: dict[str, Any], at: int = 3) -> RunSummary:
    """The summary of a run of eight steps that has come to a step, with these events."""
    make(folder, [step(number) for number in range(1, at + 1)])
    (folder / "events.jsonl").write_text("".join(json.dumps({"step": at, **event}) + "\n" for event in events))
    return summary(folder)


def test_the_state_of_a_run_is_that_of_its_process_and_its_last_event(tmp_path: Path) -> None:
    assert of(tmp_path / "a", {"event": "started"}).state == "not finished"
    assert of(tmp_path / "b", {"event": "started"}, {"event": "interrupted"}).state == "interrupted"
    assert of(tmp_path / "c", {"event": "stopped"}).state == "stopped"
    assert of(tmp_path / "d", {"event": "finished"}).state == "finished", "early stopping ends before the last step"
    assert of(tmp_path / "e", {"event": "interrupted"}, {"event": "resumed"}).state == "not finished"
    (tmp_path / "e" / "lock").write_text(f"process {os.getpid()} on {socket.gethostname()}")
    assert summary(tmp_path / "e").state == "training"
    (tmp_path / "e" / "lock").write_text(f"process {os.getpid()} on another machine")
    assert summary(tmp_path / "e").state == "not finished"


def test_the_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    found = of(tmp_path, at=5)
    assert (found.step, found.steps) == (5, 8)
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write('{"step": 6, "lo')
    assert summary(tmp_path).step == 5


def test_runs_are_found_below_folders_and_links_are_not_followed(tmp_path: Path) -> None:
    for name in ("runs/a", "runs/study/b", "elsewhere/c", ".hidden/d"):
        of(tmp_path / name)
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    found = [each.path.relative_to(tmp_path).as_posix() for each in runs_below([tmp_path / "runs"])]
    assert found == ["runs/a", "runs/study/b"]
    assert len(runs_below([tmp_path])) == 3


def test_an_unreadable_run_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.yaml").write_text("steps: [")
    of(tmp_path / "strange")
    best = {"step": 1, "loss": 2.0, "standard_error": "x", "examples": 8, "draws": 1}
    (tmp_path / "strange/best.json").write_text(json.dumps({"raw": best}))
    with pytest.raises(UserError, match="does not hold the best validations of a run: standard_error is 'x'"):
        read(tmp_path / "strange")
    assert seedfast("runs", tmp_path) == 0
    assert "unreadable" in capsys.readouterr().out
    assert [each.state for each in runs_below([tmp_path])] == ["unreadable", "not finished", "unreadable"]


def test_a_list_for_another_program_has_a_line_for_each_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    of(tmp_path / ("long" * 20))
    assert seedfast("runs", tmp_path) == 0
    assert any(line.startswith(str(tmp_path / ("long" * 20))) for line in capsys.readouterr().out.splitlines())


def test_what_a_training_removes_meanwhile_makes_no_run_unreadable(tmp_path: Path) -> None:
    of(tmp_path / "kept")
    is_over = threading.Event()

    def tidy() -> None:
        while not is_over.is_set():
            place = tmp_path / "kept/checkpoints/step-1"
            place.mkdir(parents=True)
            for name in map(str, range(20)):
                (place / name).touch()
            shutil.rmtree(place)
            of(tmp_path / "gone")
            shutil.rmtree(tmp_path / "gone")

    training = threading.Thread(target=tidy)
    training.start()
    try:
        found = [each for _ in range(200) for each in runs_below([tmp_path])]
    finally:
        is_over.set()
        training.join()
    assert {each.state for each in found if each.path.name == "kept"} == {"not finished"}
    assert sum(each.path.name == "kept" for each in found) == 200


@pytest.mark.parametrize("words", [["runs"], ["clean"]])
def test_a_missing_folder_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast(*words, tmp_path / "none") == 2
    assert capsys.readouterr().err.startswith(f"seedfast: There is no folder {tmp_path / 'none'}: name one")


@pytest.fixture(scope="module")
def trained_run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every checkpoint that it made, none of which was removed."""
    folder = tmp_path_factory.mktemp("runs") / "masked"
    train_in(folder, small_run("text-masked", story, keep=100))
    return folder


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "masked"))


def test_a_run_is_listed_with_its_bound_and_its_size(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("runs", run.parent) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "20/20" in line)
    best = min(record["loss"] for record in json.loads((run / "best.json").read_text()).values())
    found = re.search(r"≤ ([0-9.]+) ± ", line)
    assert found is not None
    assert float(found[1]) == pytest.approx(best, abs=0.01)
    assert all(word in line for word in ("±", "finished", "kB", "now"))


def test_the_list_is_had_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("runs", run, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["path"], found["recipe"], found["step"], found["is_bound"]) == (str(run), "text-masked", 20, True)
    assert found["size"] == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())


def test_clean_lists_and_removes_nothing_unless_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.rglob("*"))
    assert seedfast("clean", run.parent) == 0
    assert "neither the newest nor a best one" in capsys.readouterr().out
    assert sorted(run.rglob("*")) == before


def test_what_is_removed_changes_no_result(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def results() -> list[float]:
        kinds: tuple[Weights, ...] = ("raw", "ema")
        return [seedfast_api.load(run, weights=kind).evaluate("loss")["bits_per_byte"] for kind in kinds]

    checkpoints = Checkpoints(run)
    best, steps = results(), [each.step for each in checkpoints.committed()]
    oldest = checkpoints.committed()[0].folder
    oldest.rename(oldest.with_name(f"{oldest.name}.aside-1"))
    left = run / "checkpoints" / ".seedfast-unfinished" / "abc"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x" * 1000)
    (left / ".seedfast-lock").touch()
    assert seedfast("clean", "--remove", run) == 0
    capsys.readouterr()
    needed = {steps[-1]} | {record["step"] for record in json.loads((run / "best.json").read_text()).values()}
    assert {each.step for each in checkpoints.committed()} == needed
    assert {path.name for path in checkpoints.folder.iterdir() if path.is_dir()} == {f"step-{n:08d}" for n in needed}
    assert results() == best
    assert seedfast("clean", "--remove", run) == 0
    assert capsys.readouterr().out == "removed: 0 bytes\n"


def test_a_run_that_is_being_trained_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from seedfast.run_folder.lock import locked

    before = [each.step for each in Checkpoints(run).committed()]
    with locked(run):
        assert seedfast("clean", "--remove", run) == 1
    assert "is training in" in capsys.readouterr().err
    assert [each.step for each in Checkpoints(run).committed()] == before


def test_a_run_without_an_intact_checkpoint_keeps_them_all(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for each in Checkpoints(run).committed():
        (each.folder / "state.json").write_text("{}")
    before = sorted(run.rglob("*"))
    assert seedfast("clean", "--remove", run) == 1
    assert "nothing is removed" in capsys.readouterr().err
    assert {path for path in before if path.name != "lock"} <= set(run.rglob("*"))


def test_a_journal_is_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, [step(1, 4.0), step(2, 3.5), validation(2, raw=score(3.25)), step(3, None)])
    assert seedfast("journal", tmp_path) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["training/loss"] for row in rows] == ["4", "3.5", "", "nan"]
    assert rows[2]["validation/raw/loss"] == "3.25"
    assert seedfast("journal", tmp_path, "--columns", "training/loss", "--last", "1") == 0
    assert capsys.readouterr().out == "step,training/loss\n3,nan\n"
    assert seedfast("journal", tmp_path, "--columns", "loss") == 2
    assert "has no column loss; it has step, training/loss" in capsys.readouterr().err
    for last in ("0", "-1"):
        assert seedfast("journal", tmp_path, "--last", last) == 2
        assert f"last must be at least 1, not {last}" in capsys.readouterr().err
    assert seedfast("journal", tmp_path / "nowhere") == 2
    assert "There is no folder" in capsys.readouterr().err
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(json.dumps(step(4, 1.0) | {"loss": 10**400}) + "\n")
    assert seedfast("journal", tmp_path, "--columns", "training/loss", "--last", "1") == 0
    assert capsys.readouterr().out == "step,training/loss\n4,inf\n"
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(json.dumps(step(4, 1.0) | {"step": 10**400}) + "\n")
    assert seedfast("journal", tmp_path) == 2
    assert "is not an entry of a journal" in capsys.readouterr().err
