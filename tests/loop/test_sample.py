"""Samples during training, and the copy of the journal for TensorBoard."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.runs import FAMILIES, small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.listeners.tensorboard import TensorBoardListener
from seedfast.loop.open import open_session
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal


def samples_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted((folder / "samples").rglob("*.*"))}


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_run_that_is_continued_writes_the_samples_of_one_that_never_stopped(
    recipe: str, story: Path, tmp_path: Path
) -> None:
    fast = OptimizerConfig(lr=0.1)  # so that three steps are enough to write something else
    run = small_run(recipe, story, steps=8, sample_every=3, save_every=5, optimizer=fast)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 7)
    train_in(tmp_path / "split", run)
    written = samples_of(tmp_path / "whole")
    assert sorted({name.split("/")[1] for name in written}) == ["step-00000003", "step-00000006"]
    assert samples_of(tmp_path / "split") == written
    early, late = ({n: c for n, c in written.items() if f"step-0000000{step}" in n} for step in (3, 6))
    assert set(early.values()) != set(late.values())
    for part in ("whole", "split"):
        lines = [entry["samples"] for entry in journal.read(tmp_path / part) if "samples" in entry]
        assert sorted(name for names in lines for name in names) == list(written)


def test_snapshots_use_the_averaged_weights(story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=0.3)  # so that the average stays behind, and writes something else
    run = small_run("text-masked", story, steps=6, sample_every=6, save_every=6, optimizer=fast)
    train_in(tmp_path / "run", run)
    checkpoint = trained.find(tmp_path / "run")
    with open_session(run, tmp_path / "run") as opened:
        request = opened.family.showcase(opened.corpus.validation)
    texts = {
        kind: trained.load(run, checkpoint, weights=kind).sample(request, seed=run.seed).texts[0] + "\n"
        for kind in ("ema", "raw")
    }
    (written,) = samples_of(tmp_path / "run").values()
    assert written.decode() == texts["ema"] != texts["raw"]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_the_board_has_each_line_of_the_journal_once_also_after_a_resume(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=10, save_every=4, eval_every=5, sample_every=5, tensorboard=True)
    with open_session(run, tmp_path / "run") as opened:
        train_until(opened, 7)
    # What a kill leaves: the board has steps that no checkpoint has.
    board = TensorBoardListener(tmp_path / "run", {}, step=7)
    for step in (8, 9):
        board.on_entry({"step": step, "loss": 99.0})
    board.close(finished=False)
    train_in(tmp_path / "run", run)
    lines = list(journal.read(tmp_path / "run"))
    seen = curves(tmp_path / "run")
    wanted = {
        "training/loss": [(line["step"], line["loss"]) for line in lines if "loss" in line],
        **{
            f"validation/ema/{name}": [(e["step"], e["validation"]["ema"][name]) for e in lines if "validation" in e]
            for name in ("loss", "bits_per_byte")
        },
    }
    for tag, points in wanted.items():
        assert [step for step, _ in seen[tag]] == [step for step, _ in points]
        assert [value for _, value in seen[tag]] == pytest.approx([value for _, value in points])
    assert "validation/raw/diagnostics/unmask_accuracy" in seen
    texts = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Tags()["tensors"]
    assert any("samples" in tag for tag in texts)


def test_the_board_shows_sample_pictures(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    Image.new("L", (5, 7), 128).save(tmp_path / "samples" / "grid.png")
    board = TensorBoardListener(tmp_path, {"optimizer.lr": 0.1, "clip": None}, step=0)
    board.on_entry({"step": 3, "samples": ["samples/grid.png"]})
    board.close(finished=True)
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = seen.Images("samples/grid")
    assert (image.step, image.width, image.height) == (3, 5, 7)
    assert "_hparams_/session_start_info" in seen.summary_metadata


def test_a_missing_tensorboard_is_one_sentence(monkeypatch: pytest.MonkeyPatch, story: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = small_run("text-masked", story, steps=2, tensorboard=True)
    with pytest.raises(UserError, match="seedfast\\[tensorboard\\]"):
        train_in(tmp_path / "run", run)
    train_in(tmp_path / "run", replace(run, tensorboard=False))  # and nothing on the disk is lost
    assert json.loads((tmp_path / "run" / "latest.json").read_text())["step"] == 2
