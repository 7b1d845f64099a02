"""What is said about a run: warm-ups that are too long, rates that jump, overfitting, data without validation."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.runs import small_run, train_in

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.errors import TrainingStopped, UserError
from seedfast.evaluate import trained
from seedfast.evaluate.evaluator import evaluate
from seedfast.loop import advice
from seedfast.loop.config import Run
from seedfast.loop.plan import Plan
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.report import page
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import find
from seedfast.run_folder.records import BestRecord

RUN = recipes.make("text-masked")


def cautions(**changes: object) -> list[str]:
    run = replace(RUN, **changes)  # type: ignore[arg-type]
    return list(advice.cautions(run, Plan.of(run, 100), 10))


def test_a_warm_up_as_long_as_the_run_is_said() -> None:
    assert cautions(steps=101) == []
    (sentence,) = cautions(steps=20)
    assert "warm-up (100 steps)" in sentence
    assert "0.2 of its peak" in sentence


@pytest.mark.parametrize(
    ("before", "after", "step", "sentence"),
    [(10, 10, 5, None), (10, 20, 0, None), (20, 20, 20, None), (10, 20, 10, r"jumps from 0\.11 to 0\.5"),
     (20, 10, 5, r"jumps from 0\.84 to 0\.56")],
)  # fmt: skip
def test_a_rate_that_jumps_when_a_run_is_continued_is_said(
    before: int, after: int, step: int, sentence: str | None
) -> None:
    stored = replace(RUN, steps=before, schedule=Schedule(shape="linear", warmup=1))
    run = replace(stored, steps=after)
    found = advice.rate_jump(stored, run, Plan.of(run, 100), step)
    if sentence is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(sentence, found), found


def test_constant_rates_never_jump() -> None:
    stored = replace(RUN, steps=10, schedule=Schedule(shape="constant"))
    run = replace(stored, steps=20)
    assert advice.rate_jump(stored, run, Plan.of(run, 100), 10) is None


def verdict(folder: Path, losses: Sequence[float], *, metric: str = "loss", error: float = 0.01) -> str | None:
    """The verdict on a run with these validations."""
    value = min(losses) if metric == "loss" else max(losses)
    step = losses.index(value) + 1
    scores = [{"loss": x, "diagnostics": {"cider": x}} for x in losses]
    lines = [json.dumps({"step": n, "validation": {"raw": score}}) for n, score in enumerate(scores, 1)]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return advice.verdict(folder, {"raw": BestRecord(step, value, error, 4, 1, metric, value)}, {"cider": 1})


def test_overfitting_is_said_in_words(tmp_path: Path) -> None:
    said = verdict(tmp_path, [3.0, 2.0, 2.5, 2.9])
    assert said is not None
    assert "best at step 2 (2.0000), rising since (2.9000 at step 4)" in said
    assert "overfits" in said


def test_a_small_rise_that_never_ends_is_overfitting_and_one_within_the_noise_is_not(tmp_path: Path) -> None:
    steady = verdict(tmp_path, [2.0, 2.001, 2.002, 2.003], error=0.1)
    noise = verdict(tmp_path, [2.0, 2.01, 2.005], error=0.1)
    assert steady is not None
    assert "rising since" in steady
    assert noise is not None
    assert "no better since" in noise
    assert "overfits" not in noise


def test_a_metric_of_which_more_is_better_falls(tmp_path: Path) -> None:
    said = verdict(tmp_path, [0.1, 0.9, 0.5], metric="cider")
    assert said is not None
    assert "best at step 2 (0.9000), falling since" in said


def test_nothing_is_said_of_a_run_that_ends_at_its_best(tmp_path: Path) -> None:
    assert verdict(tmp_path, [3.0, 2.0, 1.0]) is None
    assert advice.verdict(tmp_path, {}, {}) is None


@pytest.fixture(scope="module")
def unvalidated(story: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("unvalidated") / "run"
    data = TextData(path=str(story), tokenizer="characters", context=16, validation=0.0)
    run = small_run("text-autoregressive", story, data=data, steps=8, sample_every=4)
    assert train_in(folder, run).step == 8
    return run, folder


def test_data_without_validation_train_and_the_last_checkpoint_is_the_result(unvalidated: tuple[Run, Path]) -> None:
    _, folder = unvalidated
    assert not [line for line in journal.read(folder) if "validation" in line]
    assert [line["step"] for line in journal.read(folder) if "samples" in line] == [4, 8]
    assert json.loads((folder / "best.json").read_text()) == {}
    assert find(folder).step == 8
    assert page.write(folder).is_file()


def test_the_lack_of_validation_is_said_once(
    unvalidated: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_in(tmp_path, replace(unvalidated[0], steps=4))
    assert capsys.readouterr().err.count("no validation split") == 1


def test_a_model_without_validation_data_is_not_evaluated(unvalidated: tuple[Run, Path]) -> None:
    run, folder = unvalidated
    model = trained.load(run, find(folder))
    for only in ((), ("loss",)):
        with pytest.raises(UserError, match="no validation data"):
            evaluate(model, only)


@pytest.mark.parametrize(
    "changes", [{"patience": 2}, {"best_metric": "perplexity"}, {"schedule": Schedule(shape="plateau")}], ids=str
)
def test_options_that_need_a_validation_are_refused_without_one(
    changes: dict[str, object], unvalidated: tuple[Run, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="needs a validation split"):
        train_in(tmp_path, replace(unvalidated[0], **changes))  # type: ignore[arg-type]


def test_perplexity_is_measured_and_may_choose_the_best(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path, small_run("text-autoregressive", story, best_metric="perplexity", steps=6))
    score = next(line["validation"]["ema"] for line in journal.read(tmp_path) if "validation" in line)
    assert score["perplexity"] == pytest.approx(float(torch.tensor(score["loss"], dtype=torch.float64).exp()))
    record = json.loads((tmp_path / "best.json").read_text())["ema"]
    assert (record["metric"], record["value"]) == ("perplexity", score["perplexity"])


def test_a_bound_has_no_perplexity_to_choose_by(story: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="best_metric must be one of loss"):
        train_in(tmp_path, small_run("text-masked", story, best_metric="perplexity"))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_validation_that_is_not_finite_stops_the_training_each_time(policy: str, story: Path, tmp_path: Path) -> None:
    run = small_run(
        "image-diffusion",
        story,
        optimizer=OptimizerConfig(lr=1e30),
        schedule=Schedule(),
        eval_every=1,
        on_nonfinite=policy,
    )
    for _ in range(2):
        with pytest.raises(TrainingStopped, match=r"validation loss of the raw .* not finite at step 1"):
            train_in(tmp_path, run)
        newest = Checkpoints(tmp_path).newest()
        assert newest is not None
        assert newest.step == 0, "the checkpoints before it stay"


@pytest.mark.parametrize("recipe", ["text-autoregressive", "text-embedding"])
def test_samples_of_weights_that_have_diverged_stop_the_training(recipe: str, story: Path, tmp_path: Path) -> None:
    changes = {"optimizer": OptimizerConfig(lr=1e30), "schedule": Schedule(), "eval_every": 0}
    with pytest.raises(TrainingStopped, match="weights are not finite at step 1"):
        train_in(tmp_path, small_run(recipe, story, sample_every=1, **changes))
