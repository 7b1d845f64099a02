"""Checkpoints: whole or absent, intact or named, never lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.runs import small_run, train_in, train_until

from seedfast.errors import TrainingStopped, UserError
from seedfast.loop import save as save_module
from seedfast.loop import train as train_module
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.run_folder.checkpoint import Checkpoints
from seedfast.run_folder.train_state import BestRecord
from seedfast.verify.resume import compare


def save(store: Checkpoints, step: int, content: bytes = b"abc") -> None:
    def write(folder: Path) -> None:
        (folder / "a.bin").write_bytes(content)
        (folder / "assets").mkdir()
        (folder / "assets/b.txt").write_text("b")

    store.save(step, write, {"validation": None})


def test_a_commit_holds_every_file_with_its_hash(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 3)
    checkpoint = store.newest()
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert set(checkpoint.manifest["files"]) == {"a.bin", "assets/b.txt"}
    store.point(3, {}, protected=set())
    assert json.loads((tmp_path / "latest.json").read_text()) == {"checkpoint": "step-00000003", "step": 3}


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_every_kind_of_damage_is_named_and_the_older_one_is_used(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)
    save(store, 2)
    victim = tmp_path / "checkpoints/step-00000002" / ("manifest.json" if harm == "manifest" else "a.bin")
    match harm:
        case "flip":
            victim.write_bytes(b"abd")
        case "cut":
            victim.write_bytes(b"ab")
        case "remove":
            victim.unlink()
        case "manifest":
            victim.write_text("{")
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    assert victim.name in capsys.readouterr().err


def test_nothing_intact_is_an_error_and_never_a_fresh_start(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    train_in(tmp_path, run)
    for weights in tmp_path.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.safetensors"))
    with pytest.raises(UserError, match="intact"):
        train_in(tmp_path, run)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*.safetensors")) == before


def test_a_damaged_newest_is_set_aside_and_trained_again_to_the_same_bits(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story)
    train_in(tmp_path / "a", run)
    train_in(tmp_path / "b", run)
    damaged = tmp_path / "b/checkpoints/step-00000020/ema.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    train_in(tmp_path / "b", run)
    assert compare(tmp_path / "a", tmp_path / "b")[0] is None
    assert (tmp_path / "b/checkpoints/step-00000020.aside-1").is_dir()


def test_retention_counts_committed_ones_and_spares_the_best(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        save(store, step)
        (tmp_path / f"checkpoints/step-0000000{step}.tmp-99999").mkdir()
        store.point(step, {}, protected={1})
    assert [c.step for c in store.committed()] == [1, 3, 4]
    assert not list((tmp_path / "checkpoints").glob("*.tmp-*"))


def test_a_checkpoint_that_is_being_read_is_not_removed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib\nfrom seedfast.run_folder.checkpoint import Checkpoints\n"
            f"Checkpoints(pathlib.Path({str(tmp_path)!r})).newest()\nprint('held', flush=True)\nsys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"held\n"
    save(store, 2)
    store.point(2, {}, protected=set())
    assert [c.step for c in store.committed()] == [1, 2]
    reader.kill()
    reader.wait()
    store.point(2, {}, protected=set())
    assert [c.step for c in store.committed()] == [2]


def test_a_failed_write_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)

    def full(folder: Path) -> None:
        (folder / "part.bin").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        store.save(2, full, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_training_survives_a_full_disk_and_saves_later(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run("text-masked", story)
    train_in(tmp_path / "a", run)
    _fail_saves(monkeypatch, steps={5, 6})
    monkeypatch.setattr(save_module.Retry, "due", lambda self: self._at < float("inf"))  # as if the wait were over at once
    train_in(tmp_path / "b", run)
    assert "could not save a checkpoint" in capsys.readouterr().err
    assert compare(tmp_path / "a", tmp_path / "b")[0] is None


def test_a_last_checkpoint_that_cannot_be_saved_ends_in_a_sentence(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_saves(monkeypatch, steps={20})
    with pytest.raises(TrainingStopped, match="could not be saved"):
        train_in(tmp_path, small_run("text-masked", story))
    assert Checkpoints(tmp_path).newest().step == 18  # type: ignore[union-attr]


def _fail_saves(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    whole = Session.save

    def failing(self: Session) -> None:
        if self.state.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self)

    monkeypatch.setattr(Session, "save", failing)


def test_a_disk_too_small_for_two_checkpoints_is_refused_at_the_start(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match="two checkpoints"):
        train_in(tmp_path, small_run("text-masked", story))


def test_the_best_is_the_best_committed_validation_and_a_scan_finds_it(story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, steps=24, eval_every=3, keep=1)
    train_in(tmp_path, run)
    best = json.loads((tmp_path / "best.json").read_text())
    for weights in ("raw", "ema"):
        found = [
            (c.manifest["validation"][weights]["loss"], c.step)
            for c in Checkpoints(tmp_path).committed()
            if c.manifest["validation"]
        ]
        assert (best[weights]["loss"], best[weights]["step"]) == min(found)
        assert (tmp_path / f"checkpoints/step-{best[weights]['step']:08d}").is_dir()


def test_nan_is_never_the_best_and_a_tie_goes_to_the_earlier(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    losses = iter([2.0, 2.0, float("nan"), float("nan"), 2.0, 2.0, 3.0, 3.0])
    real = train_module.validate
    monkeypatch.setattr(train_module, "validate", lambda *a, **k: replace(real(*a, **k), loss=next(losses)))
    with open_session(small_run("text-masked", story, steps=8, eval_every=2), tmp_path) as opened:
        train_until(opened, 7)
        assert opened.state.best["raw"].step == 2
        assert isinstance(opened.state.best["ema"], BestRecord)


@pytest.mark.parametrize("content", ["[]", '{"files": [1]}', '{"files": {}}', "{"])
def test_a_manifest_that_is_not_the_committed_one_is_damage(content: str, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)
    (tmp_path / "checkpoints/step-00000001/manifest.json").write_text(content)
    assert store.committed()[0].problems()


def test_a_checkpoint_that_failed_to_save_is_not_the_best(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_saves(monkeypatch, steps={18, 20})
    with pytest.raises(TrainingStopped):
        train_in(tmp_path, small_run("text-masked", story))
    best = json.loads((tmp_path / "best.json").read_text())
    assert all((tmp_path / f"checkpoints/step-{best[w]['step']:08d}").is_dir() for w in ("raw", "ema"))


def test_the_pointers_are_mended_after_a_kill_at_the_very_end(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story)
    train_in(tmp_path / "a", run)
    train_in(tmp_path / "b", run)
    (tmp_path / "b/latest.json").write_text("{}")
    (tmp_path / "b/best.json").write_text("{}")
    (tmp_path / "b/best.json.tmp-1").write_text("")
    (tmp_path / "b/checkpoints/step-00000003.trash-1").mkdir()
    train_in(tmp_path / "b", run)
    for name in ("latest.json", "best.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "b").rglob("*.t*-1")) == []


def test_lost_checkpoints_are_never_a_fresh_start(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    train_in(tmp_path, run)
    before = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "checkpoints").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    with pytest.raises(UserError, match="its checkpoints are gone"):
        train_in(tmp_path, run)
    assert (tmp_path / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("harm", ["emptied", "cut", "removed"])
def test_a_journal_that_is_not_the_runs_is_refused(harm: str, story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=8)
    train_in(tmp_path, run)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    match harm:
        case "emptied":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(b"".join(lines[:3]))
        case "removed":
            path.unlink()
    with pytest.raises(UserError, match="not the journal of this run"):
        train_in(tmp_path, run)
