"""Small runs of image diffusion: schedules, best checkpoints, samples, TensorBoard, resuming, averages, stopping."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.runs import small_run, train_in, train_until
from torch import Tensor

from seedfast.errors import TrainingStopped, UserError
from seedfast.evaluate import trained
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageObjective
from seedfast.families.image.request import GUIDANCE
from seedfast.families.image.samples import ImageSamples
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.validate import validate
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Plateau, Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.verify.resume import compare

FAST = OptimizerConfig(lr=0.1)


@pytest.fixture(scope="module")
def run(story: Path) -> Run:
    """Augmentation, class-balanced sampling and loss, class dropout; demo samples and TensorBoard."""
    return small_run(
        "image-diffusion", story, steps=8, eval_every=2, save_every=5, sample_every=4, tensorboard=True, optimizer=FAST
    )


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_in(folder, run)
    return folder


@pytest.fixture(scope="module")
def split(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after its third step and resumed."""
    folder = tmp_path_factory.mktemp("split") / "run"
    with open_session(run, folder) as opened:
        train_until(opened, 3)
    train_in(folder, run)
    return folder


@pytest.fixture(scope="module")
def model(whole: Path, run: Run) -> Trained:
    return trained.load(run, find(whole, at="newest"))


def images(model: Trained, **options: Any) -> Tensor:
    samples = model.sample(seed=1, **{"num": 6, "steps": 4, **options})
    assert isinstance(samples, ImageSamples)
    return samples.images_NCSS


def validations(folder: Path, weights: str) -> dict[int, float]:
    return {e["step"]: e["validation"][weights]["loss"] for e in journal.read(folder) if "validation" in e}


# ---- sampling ---------------------------------------------------------------------------------------------------


def test_guidance_below_one_is_accepted_and_zero_is_unconditional(model: Trained) -> None:
    few = {scale: images(model, label=("few",), guidance=scale).int() for scale in (0.0, 0.5, 1.0)}
    assert torch.equal(few[0.0], images(model, label=("none",)).int())
    by_default = images(model, label=("few",)).int()
    assert torch.equal(by_default, images(model, label=("few",), guidance=GUIDANCE).int())
    assert not torch.equal(by_default, few[1.0])
    assert not torch.equal(few[0.5], few[0.0])
    assert not torch.equal(few[0.5], few[1.0])


def test_the_network_never_receives_more_images_than_a_batch(model: Trained) -> None:
    sizes: list[int] = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    images(model, num=7, batch=3, label=("few",), guidance=1.0)
    plain = max(sizes)
    images(model, num=7, batch=3, label=("few",), guidance=2.0)
    hook.remove()
    assert (plain, max(sizes)) == (3, 6), "guidance evaluates two labels"


def test_demo_samples_are_not_clipped_at_black(whole: Path) -> None:
    """The strip begins with noise around middle grey, of which about half is darker."""
    strip = np.asarray(Image.open(whole / "samples/step-00000008/strip.png"))
    noise = strip[1:9, 1:9]
    assert 0.3 < float((noise < 128).mean()) < 0.7


def test_tensorboard_shows_the_demo_samples_unchanged(whole: Path, tmp_path: Path) -> None:
    board = EventAccumulator(str(whole / "tensorboard")).Reload()
    (tmp_path / "shown.png").write_bytes(board.Images("samples/grid.png")[-1].encoded_image_string)
    shown = np.asarray(Image.open(tmp_path / "shown.png").convert("L"))
    assert np.array_equal(shown, np.asarray(Image.open(whole / "samples/step-00000008/grid.png")))


# ---- validation and schedules -----------------------------------------------------------------------------------


def test_the_plateau_schedule_follows_the_validations(story: Path, tmp_path: Path) -> None:
    schedule = Schedule(shape="plateau", patience=0, gamma=0.5)
    run = small_run("image-diffusion", story, steps=6, eval_every=1, schedule=schedule, optimizer=FAST)
    with open_session(run, tmp_path) as opened:
        train_until(opened, 4)
    train_in(tmp_path, run)
    plateau, lr = Plateau(), FAST.lr
    for entry in journal.read(tmp_path):
        if "validation" in entry:
            plateau.observe(schedule, entry["validation"]["ema"]["loss"])
            lr = FAST.lr * plateau.scale
        else:
            assert entry["lr"] == {"adamw": pytest.approx(lr)}
    assert plateau.scale < 1, "at this rate some validation is worse than one before"


def test_the_best_checkpoint_is_that_of_the_best_validation(whole: Path) -> None:
    best = json.loads((whole / "best.json").read_text())
    assert best.keys() == {"raw", "ema"}
    for weights, record in best.items():
        found = validations(whole, weights)
        assert record["loss"] == min(found.values())
        assert found[record["step"]] == record["loss"]
        assert (whole / f"checkpoints/step-{record['step']:08d}").is_dir()


def test_validation_draws_the_same_noise_each_time_and_weights_classes_as_training_does(run: Run, whole: Path) -> None:
    with open_session(run, whole) as opened:
        objective, corpus = opened.family.objective, opened.corpus

        def score() -> tuple[float, float]:
            found = validate(
                objective, opened.state.network, {}, corpus.validation, range(len(corpus.validation)), seed=run.seed,
                batch_size=5, draws=2, distributed=opened.distributed,
            )  # fmt: skip
            return found.loss, found.weight

        assert score() == score()
        labels = corpus.validation.batch(list(range(len(corpus.validation))))["labels"]
        assert isinstance(objective, ImageObjective)
        assert score()[1] == pytest.approx(float(objective.weight_K[labels].sum()))
        assert float(objective.weight_K.std()) > 0.1


def test_early_stopping_stops_after_patience_validations(story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=2.0)
    run = small_run("image-diffusion", story, steps=40, eval_every=1, patience=2, optimizer=fast, save_every=40)
    stopped = train_in(tmp_path, run).step
    losses = validations(tmp_path, "ema")
    best = min(losses, key=lambda step: losses[step])
    assert stopped == best + 2 < 40


def test_classes_are_sampled_with_equal_frequency_by_the_balance(run: Run, tmp_path: Path) -> None:
    with open_session(run, tmp_path / "run") as opened:
        ids = opened.order.ids(0, 400)
        labels = opened.corpus.train.batch(ids)["labels"].double()
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.05), "a third of the images are of the first class"


# ---- resuming ---------------------------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(whole: Path, split: Path) -> None:
    """To the last bit, with augmentation, balance and class dropout: weights, journal, samples, TensorBoard."""
    assert compare(whole, split)[0] is None
    pictures = [{f.name: f.read_bytes() for f in sorted(folder.rglob("samples/*/[!.]*"))} for folder in (whole, split)]
    assert pictures[0] == pictures[1]
    assert pictures[0].keys() == {"grid.png", "grid.txt", "strip.png"}
    board = EventAccumulator(str(split / "tensorboard")).Reload()
    assert [event.step for event in board.Images("samples/grid.png")] == [4, 8]
    assert [event.step for event in board.Images("samples/strip.png")] == [4, 8]
    assert [event.step for event in board.Scalars("training/lr/adamw")] == list(range(1, 9))
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_resuming_a_finished_run_changes_nothing(whole: Path, run: Run) -> None:
    before = (whole / "journal.jsonl").read_bytes()
    assert train_in(whole, run).step == 8
    assert (whole / "journal.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="steps must be at least 1, not 0"):
        replace(run, steps=0)


def test_divergence_leaves_the_checkpoint_before_it(story: Path, tmp_path: Path) -> None:
    run = small_run("image-diffusion", story, steps=8, save_every=1, clip=None, optimizer=OptimizerConfig(lr=1e30))
    with pytest.raises(TrainingStopped, match="not finite"):
        train_in(tmp_path, run)
    checkpoint = find(tmp_path, at="newest")
    assert checkpoint.step >= 1
    assert checkpoint.problems() == []


# ---- averaged weights -------------------------------------------------------------------------------------------


def test_an_average_that_is_added_to_a_run_starts_at_its_weights(story: Path, tmp_path: Path) -> None:
    plain = small_run("image-diffusion", story, steps=2, ema=EMA(half_life=0))
    train_in(tmp_path, plain)
    more = replace(plain, steps=4, ema=EMA(half_life=5))
    with open_session(more, tmp_path, allow_change=("ema.half_life",)) as opened:
        assert opened.state.average is not None
        pairs = zip(opened.state.network.parameters(), opened.state.average.network.parameters(), strict=True)
        assert all(torch.equal(raw, averaged) for raw, averaged in pairs)


def test_averaged_weights_are_validated_and_do_not_stay_at_the_initial_ones(story: Path, tmp_path: Path) -> None:
    """With a half-life of a million steps in a run of ten, the average warms up."""
    run = small_run("image-diffusion", story, steps=10, eval_every=5, optimizer=FAST, ema=EMA(half_life=1e6))
    with open_session(run, tmp_path) as opened:
        start = [parameter.detach().clone() for parameter in opened.state.network.parameters()]
        train_until(opened, 10)
        assert opened.state.average is not None
        distances = [
            sum(
                float((now.detach() - then).square().sum())
                for now, then in zip(network.parameters(), start, strict=True)
            )
            for network in (opened.state.average.network, opened.state.network)
        ]
    assert distances[0] > 0.2 * distances[1]
    assert validations(tmp_path, "ema").keys() == validations(tmp_path, "raw").keys() == {5, 10}
