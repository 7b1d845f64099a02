"""Checkpoints: whole or absent, intact or named, never lost."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.small import small_run, train_in, train_until

from seedfast.errors import TrainingStopped, UserError
from seedfast.loop import train as loop
from seedfast.loop.checkpoint import Checkpoints
from seedfast.loop.session import Session, session
from seedfast.loop.state import BestRecord
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
        store.retire(protected={1})
    assert [c.step for c in store.committed()] == [1, 3, 4]


def test_a_failed_write_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    save(store, 1)

    def full(folder: Path) -> None:
        (folder / "part.bin").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        store.save(2, full, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 1


def test_training_survives_a_full_disk_and_saves_later(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run("text-masked", story)
    train_in(tmp_path / "a", run)
    _fail_saves(monkeypatch, steps={5, 6})
    monkeypatch.setattr(loop._Retry, "due", lambda self: self._at < float("inf"))  # as if the wait were over at once
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

    def failing(self: Session, validation: dict[str, Any] | None) -> Any:
        if self.state.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(self, validation)

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
    real = loop.validate
    monkeypatch.setattr(loop, "validate", lambda *a, **k: replace(real(*a, **k), loss=next(losses)))
    with session(small_run("text-masked", story, steps=8, eval_every=2), tmp_path) as opened:
        train_until(opened, 7)
        assert opened.state.best["raw"].step == 2
        assert isinstance(opened.state.best["ema"], BestRecord)
