"""The estimate before the first step: sizes as they become, and a run folder that is not touched."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.runs import flags, small_run, train_in

from seedfast.errors import UserError
from seedfast.files import sha256
from seedfast.loop import budget
from seedfast.loop.estimate import Estimate, estimate
from seedfast.run_folder.checkpoints import Checkpoints


@pytest.fixture(autouse=True, scope="module")
def _short_measurement() -> Iterator[None]:
    """The fewest steps are timed instead of five seconds of steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "_LONGEST", 0.01)
        yield


@pytest.fixture(scope="module")
def trained(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate") / "run"
    train_in(folder, small_run("text-masked", story, steps=10))
    return folder


@pytest.fixture(scope="module")
def found(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    return estimate(small_run("text-masked", story, steps=10), tmp_path_factory.mktemp("none") / "run")


def bytes_of(folder: Path, *names: str) -> int:
    return sum((folder / f"{name}.safetensors").stat().st_size for name in names)


def test_sizes_are_those_of_the_trained_run(found: Estimate, trained: Path) -> None:
    newest = Checkpoints(trained).newest()
    assert newest is not None
    headers = 20_000  # of the files
    assert 0 <= bytes_of(newest.folder, "model", "optimizer", "ema") - found.checkpoint < headers
    assert 0 <= bytes_of(newest.folder, "optimizer") - found.optimizer < headers
    assert found.weights == found.gradients == found.average == 4 * found.parameters
    assert found.trained == found.parameters == sum(each.numel() for each in newest.tensors("model")["model"].values())


def test_the_folder_holds_no_more_than_was_predicted(found: Estimate, trained: Path) -> None:
    retained = list((trained / "checkpoints").glob("step-*"))
    assert len(retained) < found.checkpoints
    journal = (trained / "journal.jsonl").stat().st_size
    assert found.journal == pytest.approx(journal, rel=0.5)


def test_activations_grow_with_the_micro_batch_and_not_with_the_batch(story: Path, tmp_path: Path) -> None:
    run = small_run("text-autoregressive", story, steps=2, micro_batch=2)
    one = estimate(run, tmp_path).activations
    assert estimate(replace(run, batch_size=8), tmp_path).activations == one
    assert estimate(replace(run, micro_batch=6), tmp_path).activations == pytest.approx(3 * one, rel=0.1)


def test_saving_beside_the_training_takes_the_memory_of_a_checkpoint(
    story: Path, tmp_path: Path, found: Estimate
) -> None:
    beside = estimate(small_run("text-masked", story, steps=10, async_save=True), tmp_path)
    assert beside.copy == beside.checkpoint == found.checkpoint
    assert any("for the copy of a checkpoint (--async-save)" in line for line in beside.lines())
    assert not any("--async-save" in line for line in found.lines())


def test_the_time_is_the_sum_of_its_parts(found: Estimate) -> None:
    speed = replace(found.speed, step_seconds=2.0, validation_seconds=10.0, sampling_seconds=5.0)
    known = replace(found, steps=20, speed=replace(speed, eval_every=6, sample_every=0))
    assert known.seconds == 20 * 2 + 4 * 10 + 5  # after steps 6, 12, 18 and 20; samples at the end
    assert replace(known, speed=replace(speed, eval_every=0, sample_every=5)).seconds == 20 * 2 + 10 + 4 * 5


def test_too_little_memory_and_disk_are_said(found: Estimate) -> None:
    assert not any("NOT ENOUGH" in line for line in found.lines())
    text = "\n".join(replace(found, limit=found.peak - 1, free=found.disk - 1).lines())
    assert "NOT ENOUGH MEMORY" in text
    assert "NOT ENOUGH DISK" in text


def test_a_new_run_leaves_no_folder_and_prints_its_needs(
    story: Path, tmp_path: Path, seedfast: Callable[..., tuple[int, str, str]]
) -> None:
    words = flags(small_run("text-masked", story))
    status, out, _ = seedfast("train", "text-masked", *words, "--out", tmp_path / "run", "--dry-run")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["parameters", *["memory"] * 6, "time", "disk"]
    assert list(tmp_path.iterdir()) == []


def test_of_a_run_that_has_begun_the_rest_is_estimated_and_no_byte_is_changed(story: Path, trained: Path) -> None:
    before = {path: sha256(path) for path in trained.rglob("*") if path.is_file()}
    assert estimate(small_run("text-masked", story, steps=25), trained).steps == 15
    assert {path: sha256(path) for path in trained.rglob("*") if path.is_file()} == before


def test_an_automatic_micro_batch_is_found_first(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, micro_batch="auto", steps=2)
    assert 1 <= estimate(run, tmp_path / "run").micro_batch <= run.batch_size
    assert not (tmp_path / "run").exists()


def test_minutes_are_turned_into_steps(story: Path, tmp_path: Path) -> None:
    run = replace(small_run("text-masked", story), minutes=0.5)
    found = estimate(run, tmp_path / "run")
    assert found.steps > 1
    assert found.seconds == pytest.approx(30, rel=0.5)


def test_one_process_is_measured(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    from seedfast.cli.train import train

    with pytest.raises(UserError, match="without torchrun"):
        train(["text-masked", *flags(small_run("text-masked", story)), "--dry-run"])


def test_the_estimate_disturbs_no_random_numbers(story: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    estimate(small_run("text-autoregressive", story, steps=2), tmp_path / "run")
    run = small_run("text-autoregressive", story, steps=4)
    train_in(tmp_path / "a", run)
    torch.set_rng_state(before)
    train_in(tmp_path / "b", run)
    files = [(tmp_path / name / "checkpoints/step-00000004/model.safetensors") for name in ("a", "b")]
    assert sha256(files[0]) == sha256(files[1])
