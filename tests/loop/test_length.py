"""The length of a run and its intervals: in steps, in epochs, or as a time budget."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.runs import small_run, train_in

import seedfast
from seedfast import recipes
from seedfast.cli.train import parse_run
from seedfast.errors import UserError
from seedfast.loop.budget import Speed
from seedfast.loop.open import open_session
from seedfast.loop.plain_config import from_mapping, read_yaml
from seedfast.loop.plan import Plan, with_steps
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.verify.resume import compare

RUN = recipes.make("text-masked")


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "steps"), [(1, 100, 10, 10), (1, 101, 10, 11), (3, 64, 16, 12), (0.001, 100, 10, 1)]
)
def test_epochs_are_the_fewest_steps_that_see_every_example_that_often(
    epochs: float, examples: int, batch: int, steps: int
) -> None:
    run = with_steps(replace(RUN, epochs=epochs, batch_size=batch), examples)
    assert (run.steps, run.epochs) == (steps, None)


@pytest.mark.parametrize(
    ("every", "steps"), [(7, 7), (0, 0), ("1epoch", 10), ("0.5epoch", 5), (".25 epochs", 2), ("0.01epoch", 1)]
)
def test_an_interval_is_steps_or_epochs(every: int | str, steps: int) -> None:
    plan = Plan.of(replace(RUN, batch_size=10, eval_every=every), examples=100)
    assert plan.eval_every == steps


@pytest.mark.parametrize("every", ["epoch", "0epoch", "5", "-1epoch", -1, "1 hour"])
def test_other_intervals_are_refused(every: Any) -> None:
    with pytest.raises(UserError, match=r"eval_every must be at least 0 steps, or epochs such as 0\.5epoch"):
        replace(RUN, eval_every=every)


def test_two_lengths_are_refused_wherever_they_are_given() -> None:
    with pytest.raises(UserError, match="--steps and --epochs both set the length"):
        parse_run("text-masked", ["--steps", "3", "--epochs=2"])
    with pytest.raises(UserError, match="epochs and minutes both set the length"):
        seedfast.recipe("text-masked", epochs=3, minutes=2)
    with pytest.raises(UserError, match=r"epochs \(3\) and minutes \(2\)"):
        replace(RUN, epochs=3.0, minutes=2.0)


def test_another_length_replaces_the_one_that_a_run_has() -> None:
    by_time = from_mapping(RUN, {"minutes": 5}, where="x")
    assert from_mapping(by_time, {"steps": 7}, where="x") == replace(RUN, steps=7)
    assert from_mapping(by_time, {"epochs": 7}, where="x") == replace(RUN, epochs=7.0)
    assert from_mapping(by_time, {"seed": 7}, where="x").minutes == 5


def test_a_run_of_epochs_is_stored_in_steps_and_journalled_in_epochs(story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, epochs=0.1, eval_every="0.05epoch", save_every="0.05epoch")
    with open_session(run, tmp_path / "run") as opened:
        examples, steps = opened.plan.examples, opened.plan.steps
    assert train_in(tmp_path / "run", run).step == steps
    assert read_yaml(tmp_path / "run/run.yaml")["steps"] == steps
    lines = list(journal.read(tmp_path / "run"))
    assert [line["epoch"] for line in lines] == [round(line["step"] * 6 / examples, 4) for line in lines]
    newest = Checkpoints(tmp_path / "run").newest()
    assert newest is not None
    assert newest.manifest.epoch == lines[-1]["epoch"]
    best = newest.best["ema"]
    assert best.epoch == next(line["epoch"] for line in lines if line["step"] == best.step)
    train_in(tmp_path / "steps", replace(run, epochs=None, steps=steps))
    assert compare(tmp_path / "run", tmp_path / "steps")[0] is None


def test_a_time_budget_is_measured_once_and_gives_the_bits_of_its_steps(story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, minutes=0.002)
    steps = train_in(tmp_path / "run", run).step
    stored = read_yaml(tmp_path / "run/run.yaml")
    assert (stored["steps"], stored["minutes"]) == (steps, None)
    assert train_in(tmp_path / "run", run).step == steps, "the same command continues the same plan"
    assert len([line for line in journal.read(tmp_path / "run") if "loss" in line]) == steps
    train_in(tmp_path / "steps", replace(run, minutes=None, steps=steps))
    assert compare(tmp_path / "run", tmp_path / "steps")[0] is None


def test_a_longer_budget_continues_at_the_measured_speed(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, minutes=1e-6)
    assert train_in(tmp_path, run).step == 1, "the shortest run has one step"
    speed = Speed(step_seconds=1.0, validation_seconds=0.0, measuring_seconds=0.0, eval_every=0)
    speed.write(tmp_path)
    assert train_in(tmp_path, replace(run, minutes=0.05)).step == 3


def test_a_budget_holds_its_validations() -> None:
    sampling = {"sampling_seconds": 20.0, "sample_every": 5}
    both = Speed(step_seconds=1.0, validation_seconds=0.0, measuring_seconds=0.0, eval_every=0, **sampling)  # type: ignore[arg-type]
    assert both.steps(1) == 8, "samples cost time: 8 steps of 1 s, each with a fifth of 20 s, and 20 s at the end"
    speed = Speed(step_seconds=1.0, validation_seconds=10.0, measuring_seconds=5.0, eval_every=10)
    steps = speed.steps(2)
    assert steps + 10 * (steps / 10) + 10 + 5 <= 120 < steps + 2 + 10 * (steps + 2) / 10 + 15


def test_a_run_of_steps_has_no_budget_to_continue(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=2)
    train_in(tmp_path, run)
    with pytest.raises(UserError, match="began without --minutes"):
        train_in(tmp_path, replace(run, minutes=1.0))
    (tmp_path / "budget.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(UserError, match=r"budget\.json cannot be read"):
        train_in(tmp_path, replace(run, minutes=1.0))
