"""Recovery of a run: from damaged or lost files, a full disk, and a kill between commit and pointers."""

import errno
import json
import math
import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.runs import finished, finished_in, small_run, train_in, train_until

from seedfast.errors import TrainingStopped, UserError
from seedfast.files import UNFINISHED
from seedfast.loop import save as save_module
from seedfast.loop import train as train_module
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.records import BestRecord
from seedfast.verify.resume import compare


def test_no_intact_checkpoint_is_an_error_and_never_a_fresh_start(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    finished_in(tmp_path, run)
    for weights in tmp_path.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.safetensors"))
    with pytest.raises(UserError, match="intact"):
        train_in(tmp_path, run)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.safetensors")) == before


def test_a_damaged_newest_checkpoint_is_quarantined_and_trained_again_to_the_same_bits(
    story: Path, tmp_path: Path
) -> None:
    run = small_run("text-masked", story)
    finished_in(tmp_path / "b", run)
    damaged = tmp_path / "b/checkpoints/step-00000020/ema.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    train_in(tmp_path / "b", run)
    assert compare(finished(run), tmp_path / "b")[0] is None
    assert (tmp_path / "b/checkpoints/step-00000020.aside-1").is_dir()


def test_missing_checkpoints_are_never_a_fresh_start(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    finished_in(tmp_path, run)
    before = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "checkpoints").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(UserError, match="its checkpoints are gone"):
        train_in(tmp_path, run)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["emptied", "cut", "removed"])
def test_a_journal_of_another_run_is_refused(damage: str, story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=8)
    finished_in(tmp_path, run)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    match damage:
        case "emptied":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(b"".join(lines[:3]))
        case "removed":
            path.unlink()
    with pytest.raises(UserError, match="not the journal of this run"):
        train_in(tmp_path, run)


def test_a_byte_of_the_journal_that_changed_is_refused_and_can_be_allowed(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=8)
    finished_in(tmp_path, run)
    path = tmp_path / "journal.jsonl"
    content = bytearray(path.read_bytes())
    content[content.index(b'"loss": ') + 8] ^= 1  # a digit of the first loss
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"SHA-256 differs.*--allow-change journal"):
        train_in(tmp_path, run)
    assert path.read_bytes() == content
    train_in(tmp_path, replace(run, steps=10), allow_change=("journal",))
    assert path.read_bytes().startswith(content)
    train_in(tmp_path, replace(run, steps=12))


def test_training_continues_on_a_full_disk_and_saves_later(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run("text-masked", story)
    whole = finished(run)
    _fail_saves(monkeypatch, steps={5, 6})
    monkeypatch.setattr(save_module.Retry, "due", lambda self: self._at < float("inf"))  # without waiting
    train_in(tmp_path / "b", run)
    assert "could not save a checkpoint" in capsys.readouterr().err
    assert compare(whole, tmp_path / "b")[0] is None


def test_a_failed_save_of_the_last_checkpoint_is_an_error(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_saves(monkeypatch, steps={20})
    with pytest.raises(TrainingStopped, match="could not be saved"):
        train_in(tmp_path, small_run("text-masked", story))
    assert Checkpoints(tmp_path).newest().step == 18  # type: ignore[union-attr]


def test_a_checkpoint_that_failed_to_save_is_not_the_best(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_saves(monkeypatch, steps={18, 20})
    with pytest.raises(TrainingStopped):
        train_in(tmp_path, small_run("text-masked", story))
    best = json.loads((tmp_path / "best.json").read_text())
    assert all((tmp_path / f"checkpoints/step-{best[w]['step']:08d}").is_dir() for w in ("raw", "ema"))


def _fail_saves(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    save = Session.save

    def failing(self: Session) -> None:
        if self.state.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self)

    monkeypatch.setattr(Session, "save", failing)


def test_a_disk_too_small_for_two_checkpoints_is_refused_at_the_start(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match="two checkpoints"):
        train_in(tmp_path, small_run("text-masked", story))


def test_best_json_is_what_a_scan_of_the_committed_validations_finds(story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, steps=24, eval_every=3, keep=1)
    train_in(tmp_path, run)
    best = json.loads((tmp_path / "best.json").read_text())
    for weights in ("raw", "ema"):
        found = [
            (c.manifest.validation[weights]["loss"], c.step)
            for c in Checkpoints(tmp_path).committed()
            if c.manifest.validation
        ]
        assert (best[weights]["loss"], best[weights]["step"]) == min(found)
        assert (tmp_path / f"checkpoints/step-{best[weights]['step']:08d}").is_dir()


def with_validation_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Replace the losses of the validations to come: of the raw and of the averaged weights in turn."""
    following, real = iter(losses), train_module.validate_session
    monkeypatch.setattr(train_module, "validate_session", lambda *a, **k: replace(real(*a, **k), loss=next(following)))


def test_a_tie_goes_to_the_earlier_step(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_validation_losses(monkeypatch, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0)
    with open_session(small_run("text-masked", story, steps=8, eval_every=2), tmp_path) as opened:
        train_until(opened, 7)
        assert {record.step for record in opened.state.best.values()} == {2}


def test_a_validation_that_is_not_finite_stops_and_is_never_the_best(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_validation_losses(monkeypatch, 2.0, 2.0, math.nan, math.nan)
    with open_session(small_run("text-masked", story, steps=8, eval_every=2), tmp_path) as opened:
        with pytest.raises(TrainingStopped, match="not finite at step 4"):
            train_until(opened, 7)
        assert isinstance(opened.state.best["ema"], BestRecord)
        assert {record.step for record in opened.state.best.values()} == {2}


def test_the_pointers_are_restored_after_a_kill_at_the_very_end(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story)
    finished_in(tmp_path / "b", run)
    (tmp_path / "b/latest.json").write_text("{}")
    (tmp_path / "b/best.json").write_text("{}")
    (tmp_path / f"b/best.json{UNFINISHED}").write_text("{")
    train_in(tmp_path / "b", run)
    for name in ("latest.json", "best.json"):
        assert (tmp_path / "b" / name).read_bytes() == (finished(run) / name).read_bytes()
    assert not list((tmp_path / "b").rglob(f"*{UNFINISHED}*"))
