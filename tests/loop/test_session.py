"""Opening a run: whose folder it is, what may have changed, and numbers that diverge."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.processes import python
from tests.helpers.runs import Silent, StopAt, finished, finished_in, flags, small_run, train_in, train_until

from seedfast.errors import TrainingStopped, UserError
from seedfast.loop.interrupt import Interrupt
from seedfast.loop.open import open_session
from seedfast.loop.train import run_training
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.verify.resume import compare


def test_a_foreign_folder_is_refused_and_left_alone(story: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a run"):
        train_in(tmp_path, small_run("text-masked", story))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_with_the_name_of_the_folder_is_refused(story: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        train_in(tmp_path / "x", small_run("text-masked", story))


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("text-proofreading", "takes all logits of a batch at once"),
        ("text-embedding", "takes all logits of a batch at once"),
        ("image-diffusion", "are no logits"),
    ],
)
def test_a_limit_of_logits_is_refused_where_nothing_heeds_it(
    recipe: str, reason: str, story: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"logits_at_once \(64\) has no effect, because .*{reason}"):
        train_in(tmp_path, small_run(recipe, story, logits_at_once=64))


def test_another_recipe_in_the_folder_is_refused(story: Path, tmp_path: Path) -> None:
    finished_in(tmp_path, small_run("text-masked", story, steps=2))
    with pytest.raises(UserError, match="recipe text-masked"):
        train_in(tmp_path, small_run("text-autoregressive", story, steps=2))


def test_two_processes_cannot_train_in_one_run(story: Path, tmp_path: Path) -> None:
    holder = python(
        "import pathlib, sys, time\nfrom seedfast.run_folder.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)",
        tmp_path,
    )
    holder.wait_for(lambda: holder.stdout.exists() and holder.stdout.read_text() == "held\n")
    with pytest.raises(UserError, match=f"process {holder.pid} "):
        train_in(tmp_path, small_run("text-masked", story, steps=2))
    holder.process.kill()  # a dead owner's lock is no lock
    holder.finish()
    train_in(tmp_path, small_run("text-masked", story, steps=2))


def test_changes_of_meaning_must_be_allowed_by_name(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    finished_in(tmp_path, run)
    other = replace(run, steps=6, optimizer=OptimizerConfig(lr=2e-2))
    with pytest.raises(UserError, match=r"optimizer\.lr = 0\.01"):
        train_in(tmp_path, other)
    assert train_in(tmp_path, other, allow_change=("optimizer.lr",)).step == 6
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["started", "finished", "resumed", "finished"]
    assert events[2]["changes"] == {"optimizer.lr": [0.01, 0.02], "steps": [4, 6]}


def test_another_architecture_does_not_load(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=2)
    finished_in(tmp_path, run)
    other = replace(run, model=replace(run.model, width=32))
    with pytest.raises(UserError, match="shape"):
        train_in(tmp_path, other, allow_change=("model.width",))


def test_changed_data_is_named(tmp_path: Path, story: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text(story.read_text())
    run = small_run("text-masked", text, steps=2)
    train_in(tmp_path / "run", run)
    text.write_text(story.read_text().replace("fox", "cow"))
    with pytest.raises(UserError, match=r"changed: own\.txt"):
        train_in(tmp_path / "run", run)


def _poison(run_folder: Path, run, **options) -> None:  # type: ignore[no-untyped-def]
    """Train with losses that are not a number: when: their micro-batches, counted after step 5."""
    with open_session(run, run_folder) as opened:
        train_until(opened, 5)
        objective = opened.family.objective
        whole = objective.loss
        calls = iter(range(10**6))

        def broken(network, task, state):  # type: ignore[no-untyped-def]
            terms = whole(network, task, state)
            return replace(terms, total_B=terms.total_B * torch.nan) if next(calls) in options["when"] else terms

        objective.loss = broken  # type: ignore[method-assign]
        run_training(opened, Silent())


@pytest.fixture(params=[0, 1], ids=["journal at once", "journal one step late"])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many steps the loop launches before it reads the first: none on a CPU, one elsewhere."""
    monkeypatch.setattr("seedfast.loop.train.most_ahead", lambda device: request.param)
    return int(request.param)


def test_nan_stops_and_leaves_the_last_checkpoint(story: Path, tmp_path: Path, ahead: int) -> None:
    run = small_run("text-masked", story)
    with pytest.raises(TrainingStopped, match="not finite at step 6 "):
        _poison(tmp_path, run, when={0})
    assert Checkpoints(tmp_path).newest().step == 5  # type: ignore[union-attr]
    train_in(tmp_path, run)  # without the broken loss it continues to the same bits
    assert compare(finished(run), tmp_path)[0] is None


def test_nan_is_skipped_within_the_budget_and_journalled(story: Path, tmp_path: Path, ahead: int) -> None:
    run = small_run("text-masked", story, on_nonfinite="skip", skip_budget=1, eval_every=0, micro_batch=None)
    _poison(tmp_path / "one", run, when={2})
    skipped = [e for e in journal.read(tmp_path / "one") if "skipped" in e]
    assert [(e["step"], e["loss"]) for e in skipped] == [(8, None)]
    with pytest.raises(TrainingStopped, match="budget of 1"):
        _poison(tmp_path / "two", run, when={2, 3})


@pytest.mark.parametrize("recipe", ["text-masked", "text-proofreading"])
def test_a_journal_that_is_one_step_late_ends_equal(
    recipe: str, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(recipe, story, steps=9, eval_every=4, save_every=3, sample_every=5)
    train_in(tmp_path / "whole", run)
    monkeypatch.setattr("seedfast.loop.train.most_ahead", lambda device: 1)
    with open_session(run, tmp_path / "late") as opened:
        assert run_training(opened, StopAt(7)).step == 8, "the line of step 7 comes when step 8 is on its way"
    train_in(tmp_path / "late", run)
    assert compare(tmp_path / "whole", tmp_path / "late")[0] is None
    entries = [[{**e, "time": None} for e in journal.read(tmp_path / name)] for name in ("whole", "late")]
    assert entries[0] == entries[1]


@pytest.mark.parametrize(
    "changes", [{"schedule": Schedule(shape="plateau")}, {"patience": 2}], ids=["plateau", "patience"]
)
def test_the_interval_of_validations_that_decide_is_kept(changes: dict[str, Any], story: Path, tmp_path: Path) -> None:
    """Where validations lower the learning rate or end the run; elsewhere it may change."""
    deciding = small_run("text-masked", story, steps=2, eval_every=2, **changes)
    train_in(tmp_path / "deciding", deciding)
    with pytest.raises(UserError, match=r"has eval_every = 2, and the new value is 1, .*--allow-change eval_every"):
        train_in(tmp_path / "deciding", replace(deciding, eval_every=1))
    train_in(tmp_path / "deciding", replace(deciding, eval_every=1), allow_change=("eval_every",))
    plain = small_run("text-masked", story, steps=2, eval_every=2)
    train_in(tmp_path / "plain", plain)
    train_in(tmp_path / "plain", replace(plain, eval_every=1))


def test_the_plateau_schedule_remembers_over_a_resume(story: Path, tmp_path: Path) -> None:
    run = small_run(
        "text-masked",
        story,
        schedule=Schedule(shape="plateau", patience=0, gamma=0.5),
        optimizer=OptimizerConfig(lr=0.5),  # far too high: validation gets worse
        eval_every=1,
        steps=8,
    )
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 4)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None
    rates = [e["lr"]["adamw"] for e in journal.read(tmp_path / "whole") if "lr" in e]
    assert rates[-1] < rates[0], "without a lower rate this test shows nothing"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_resumes_to_the_same_bits(precision: str, story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, precision=precision, steps=12)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 7)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None
    losses = [e["loss"] for e in journal.read(tmp_path / "whole") if e.get("loss")]
    assert losses[-1] < losses[0]
    stored = json.loads((tmp_path / "whole/checkpoints/step-00000012/state.json").read_text())
    assert bool(stored["scaler"]) == (precision == "fp16")


def test_muon_resumes_to_the_same_bits(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, optimizer=OptimizerConfig(kind="muon", lr=1e-2), steps=10)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 6)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None


def test_a_run_cannot_end_before_its_step(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=6)
    finished_in(tmp_path, run)
    with pytest.raises(UserError, match="at step 6 already"):
        train_in(tmp_path, replace(run, steps=5))


def test_two_nans_in_fp16_are_skipped(story: Path, tmp_path: Path) -> None:
    run = small_run(
        "text-masked", story, precision="fp16", on_nonfinite="skip", skip_budget=5, eval_every=0, micro_batch=None
    )
    _poison(tmp_path, run, when={2, 3})
    assert [e["step"] for e in journal.read(tmp_path) if e.get("skipped") == "not finite"] == [8, 9]


def test_an_average_can_be_added_when_a_run_is_resumed(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4, ema=EMA())
    train_in(tmp_path, run)
    other = replace(run, steps=6, ema=EMA(half_life=2))
    assert train_in(tmp_path, other, allow_change=("ema.half_life",)).step == 6


def test_the_state_of_another_optimizer_is_refused(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4)
    finished_in(tmp_path, run)
    other = replace(run, steps=6, optimizer=OptimizerConfig(kind="muon", lr=1e-2))
    with pytest.raises(UserError, match="StackedMuon has no exp_avg"):
        train_in(tmp_path, other, allow_change=("optimizer.kind",))


def test_a_file_too_large_for_the_disk_is_a_sentence(story: Path, tmp_path: Path) -> None:
    """A real limit on the size of files: saving the first checkpoint finds it."""
    code = "import resource, seedfast.cli\nresource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\nseedfast.cli.main()"
    words = ["train", "text-masked", *flags(small_run("text-masked", story)), "--out", tmp_path / "run"]
    result = python(code, *words).finish()
    assert result.returncode == 2, result.stderr
    assert "The first checkpoint could not be saved" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("optimizer", "peaks"),
    [
        (OptimizerConfig(lr=1e-2), {"adamw": 1e-2}),
        (OptimizerConfig(kind="muon", lr=1e-2, matrix_lr_factor=3), {"adamw": 1e-2, "muon": 3e-2}),
    ],
    ids=["adamw", "muon"],
)
def test_the_journal_has_the_learning_rate_of_each_optimizer(
    optimizer: OptimizerConfig, peaks: dict[str, float], story: Path, tmp_path: Path
) -> None:
    schedule = Schedule(shape="linear", warmup=1)
    train_in(tmp_path, small_run("text-masked", story, optimizer=optimizer, schedule=schedule, steps=4, eval_every=0))
    rates = [entry["lr"] for entry in journal.read(tmp_path) if "lr" in entry]
    assert rates == [
        {name: pytest.approx(multiplier * peak, rel=1e-12) for name, peak in peaks.items()}
        for multiplier in (1 / 2, 1, 2 / 3, 1 / 3)
    ]


def test_a_run_saves_at_the_end_of_the_time_of_its_job_and_continues_in_the_next(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("text-masked", story, steps=6, save_every=100)
    train_in(tmp_path / "whole", run)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")  # long ago
    ended = train_in(tmp_path / "jobs", run)
    assert (ended.step, ended.interrupted_by) == (0, signal.SIGUSR1)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "99999999999")
    assert train_in(tmp_path / "jobs", run).interrupted_by is None
    assert compare(tmp_path / "whole", tmp_path / "jobs")[0] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_of_a_cluster_may_come_twice(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        for _ in range(2):
            os.kill(os.getpid(), number)
        assert interrupt.number == number


def test_a_second_ctrl_c_ends_at_once() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
