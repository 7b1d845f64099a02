"""Training runs of captioners: what continues, what is kept, which checkpoint is the best."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.runs import small_run, train_in, train_until

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.loop.open import open_session
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find


def test_a_run_continues_from_its_newest_checkpoint_and_keeps_the_best_beside_it(story: Path, tmp_path: Path) -> None:
    run = small_run("image-caption", story, steps=12, eval_every=2, save_every=2, keep=1)
    with open_session(run, tmp_path / "run") as opened:
        train_until(opened, 9)
    assert json.loads((tmp_path / "run/latest.json").read_text())["step"] == 9
    with open_session(run, tmp_path / "run") as opened:
        assert opened.state.step == 9, "no step is lost since the best"
    train_in(tmp_path / "run", run)
    kept = {int(path.name[5:]) for path in (tmp_path / "run/checkpoints").glob("step-*")}
    best = json.loads((tmp_path / "run/best.json").read_text())
    assert kept == {12, *(record["step"] for record in best.values())}
    newest = find(tmp_path / "run", at="newest")
    assert recipes.stored(newest.folder) == run.located(), "the configuration is in every checkpoint"


def test_the_recipe_warms_up_and_needs_no_network() -> None:
    run = recipes.make("image-caption")
    assert run.schedule.warmup > 0
    first, later = (run.schedule.lr_multiplier(step, run.steps) for step in (0, run.schedule.warmup))
    assert first < later
    assert (run.hub, run.wandb, run.tensorboard) == (None, None, False)
    assert replace(run, data=replace(run.data, path="x")).data.processor == "model", "nothing is fetched to build it"


def test_the_best_checkpoint_is_chosen_by_the_metric_of_that_name(story: Path, tmp_path: Path) -> None:
    run = small_run("image-caption", story, steps=9, eval_every=3, best_metric="accuracy")
    train_in(tmp_path / "run", run)
    best = json.loads((tmp_path / "run/best.json").read_text())["raw"]
    scores = {e["step"]: e["validation"]["raw"] for e in journal.read(tmp_path / "run") if "validation" in e}
    top = max(score["diagnostics"]["accuracy"] for score in scores.values())
    assert best["metric"] == "accuracy"
    assert best["value"] == top == scores[best["step"]]["diagnostics"]["accuracy"]
    with pytest.raises(UserError, match="best_metric must be one of loss, perplexity, accuracy"):
        train_in(tmp_path / "other", replace(run, best_metric="beauty"))
