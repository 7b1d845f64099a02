"""Defects that image diffusion trainers have had, by the version that had them; none of them is here.

Others of theirs are named where their subject is tested: labels of None (identity 23), a sampler that starts beside the
noise it added and traces of all steps (test_image_family), sizes and single channels (test_image_networks), random
numbers and interruptions (tests/loop), options without an effect (test_config).
"""

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

from seedfast.data.image.config import ImageAssets
from seedfast.diffusion.guidance import clamped
from seedfast.errors import TrainingStopped, UserError
from seedfast.evaluate import trained
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageDiffusion, ImageFamily
from seedfast.families.image.noise_process import Process
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.validate import validate
from seedfast.models.unet import UNet
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Plateau, Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.verify.resume import compare

FAST = OptimizerConfig(lr=0.1)


@pytest.fixture(scope="module")
def run(story: Path) -> Run:
    """Augmentation, balance, label drop and class weights on; snapshots and a board."""
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
    """The same, stopped after its third step and continued."""
    folder = tmp_path_factory.mktemp("split") / "run"
    with open_session(run, folder) as opened:
        train_until(opened, 3)
    train_in(folder, run)
    return folder


@pytest.fixture(scope="module")
def model(whole: Path, run: Run) -> Trained:
    return trained.load(run, trained.find(whole))


def images(model: Trained, **options: Any) -> Tensor:
    samples = model.sample(ImageRequest(**{"num": 6, "steps": 4, **options}), seed=1)
    assert isinstance(samples, ImageSamples)
    return samples.images_NCSS


def validations(folder: Path, weights: str) -> dict[int, float]:
    return {e["step"]: e["validation"][weights]["loss"] for e in journal.read(folder) if "validation" in e}


# ---- v1 ---------------------------------------------------------------------------------------------------------


def test_v1_a_guidance_below_one_is_taken_and_nought_is_unconditional(model: Trained) -> None:
    """Of later versions too: there, 0 was suddenly the conditional model."""
    few = {scale: images(model, label=("few",), guidance=scale).int() for scale in (0.0, 0.5, 1.0)}
    assert torch.equal(few[0.0], images(model).int())
    assert torch.equal(few[1.0], images(model, label=("few",)).int())
    assert not torch.equal(few[0.5], few[0.0])
    assert not torch.equal(few[0.5], few[1.0])


# ---- v2 ---------------------------------------------------------------------------------------------------------


def test_v2_pictures_of_training_are_not_cut_off_at_black(whole: Path) -> None:
    """The strip begins with noise around the middle grey, and as much of it lies below as above."""
    strip = np.asarray(Image.open(whole / "samples/step-00000008/strip.png"))
    noise = strip[1:9, 1:9]
    assert 0.3 < float((noise < 128).mean()) < 0.7


def test_v2_an_average_that_is_new_to_a_run_begins_at_its_weights(story: Path, tmp_path: Path) -> None:
    plain = small_run("image-diffusion", story, steps=2, ema=EMA(half_life=0))
    train_in(tmp_path, plain)
    more = replace(plain, steps=4, ema=EMA(half_life=5))
    with open_session(more, tmp_path, allow_change=("ema.half_life",)) as opened:
        assert opened.state.average is not None
        pairs = zip(opened.state.network.parameters(), opened.state.average.network.parameters(), strict=True)
        assert all(torch.equal(raw, averaged) for raw, averaged in pairs)


def test_v2_the_first_multiplier_need_not_be_one() -> None:
    config = UNet(width=8, multipliers=(2, 1), blocks=1, attention=(False, False), groups=4)
    network = config.build(size=8, channels=1, classes=1)
    assert network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape == (2, 1, 8, 8)


# ---- v3 ---------------------------------------------------------------------------------------------------------


def test_v3_the_plateau_schedule_follows_the_validations(story: Path, tmp_path: Path) -> None:
    schedule = Schedule(shape="plateau", patience=0, gamma=0.5)
    run = small_run("image-diffusion", story, steps=10, eval_every=1, schedule=schedule, optimizer=FAST)
    with open_session(run, tmp_path) as opened:
        train_until(opened, 6)
    train_in(tmp_path, run)
    plateau, rate = Plateau(), FAST.lr
    for entry in journal.read(tmp_path):
        if "validation" in entry:
            plateau.observe(schedule, entry["validation"]["ema"]["loss"])
            rate = FAST.lr * plateau.scale
        else:
            assert entry["lr"] == pytest.approx(rate)
    assert plateau.scale < 1, "at this rate some validation is worse than one before"


def test_v3_the_best_checkpoint_is_that_of_the_best_validation(whole: Path) -> None:
    """Also of the version after, which took the training loss where it did not find the validation's."""
    best = json.loads((whole / "best.json").read_text())
    assert best.keys() == {"raw", "ema"}
    for weights, record in best.items():
        found = validations(whole, weights)
        assert record["loss"] == min(found.values())
        assert found[record["step"]] == record["loss"]
        assert (whole / f"checkpoints/step-{record['step']:08d}").is_dir()


def test_v3_the_dynamic_threshold_takes_the_place_of_the_clamp() -> None:
    x0 = torch.linspace(-3, 3, 64).view(1, 1, 8, 8)
    found = ImageRequest(threshold="dynamic", percentile=1.0).thresholded(x0)
    assert torch.allclose(found, x0 / 3)
    assert not torch.allclose(found, clamped(x0))


def test_v3_a_continued_run_has_schedule_samples_and_settings(whole: Path, split: Path) -> None:
    """To the last bit, with augmentation, balance and label drop on: weights, journal, samples; and the board."""
    assert compare(whole, split)[0] is None
    pictures = [{f.name: f.read_bytes() for f in sorted(folder.rglob("samples/*/*"))} for folder in (whole, split)]
    assert pictures[0] == pictures[1]
    assert pictures[0].keys() == {"grid.png", "grid.txt", "strip.png"}
    board = EventAccumulator(str(split / "tensorboard")).Reload()
    assert [event.step for event in board.Images("samples/grid")] == [4, 8]
    assert [event.step for event in board.Images("samples/strip")] == [4, 8]
    assert [event.step for event in board.Scalars("training/lr")] == list(range(1, 9))
    assert "_hparams_/session_start_info" in board.summary_metadata


# ---- v4 ---------------------------------------------------------------------------------------------------------


def test_v4_the_board_shows_the_pictures_as_they_are(whole: Path, tmp_path: Path) -> None:
    board = EventAccumulator(str(whole / "tensorboard")).Reload()
    (tmp_path / "shown.png").write_bytes(board.Images("samples/grid")[-1].encoded_image_string)
    shown = np.asarray(Image.open(tmp_path / "shown.png").convert("L"))
    assert np.array_equal(shown, np.asarray(Image.open(whole / "samples/step-00000008/grid.png")))


def test_v4_a_run_that_has_nothing_left_to_do_ends_well(whole: Path, run: Run) -> None:
    before = (whole / "journal.jsonl").read_bytes()
    assert train_in(whole, run).step == 8
    assert (whole / "journal.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="steps must be at least 1, not 0"):
        replace(run, steps=0)


# ---- what crossed versions --------------------------------------------------------------------------------------


def test_the_network_never_sees_more_images_than_a_batch(model: Trained) -> None:
    seen: list[int] = []
    hook = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    images(model, num=7, batch=3, label=("few",))
    plain = max(seen)
    images(model, num=7, batch=3, label=("few",), guidance=2.0)
    hook.remove()
    assert (plain, max(seen)) == (3, 6), "guidance asks twice"


def test_classes_are_drawn_as_often_as_the_balance_says(run: Run, tmp_path: Path) -> None:
    with open_session(run, tmp_path / "run") as opened:
        ids = opened.order.ids(0, 400)
        labels = opened.corpus.train.batch(ids)["labels"].double()
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.05), "a third of the images are of the first class"


def test_an_explosion_leaves_the_checkpoint_before_it(story: Path, tmp_path: Path) -> None:
    run = small_run("image-diffusion", story, steps=8, save_every=1, clip=None, optimizer=OptimizerConfig(lr=1e30))
    with pytest.raises(TrainingStopped, match="not finite"):
        train_in(tmp_path, run)
    checkpoint = trained.find(tmp_path)
    assert checkpoint.step >= 1
    assert checkpoint.problems() == []


# ---- the last one -----------------------------------------------------------------------------------------------


def test_a_dim_picture_is_saved_dim(tmp_path: Path) -> None:
    dim = ImageSamples(
        images_NCSS=torch.arange(20, 84, dtype=torch.uint8).view(1, 1, 8, 8), names=(None,), frames_FNCSS=None,
        strip=False, gif=False, individual=True, columns=None,
    )  # fmt: skip
    _, picture = dim.save(tmp_path)
    values = np.asarray(Image.open(picture))
    assert (values.min(), values.max()) == (20, 83), "not stretched to 0 … 255"


def test_validation_draws_the_same_noise_each_time_and_counts_classes_as_training_does(run: Run, whole: Path) -> None:
    with open_session(run, whole) as opened:
        family, corpus = opened.family, opened.corpus

        def score() -> tuple[float, float]:
            found = validate(
                family, opened.state.network, {}, corpus.validation, range(len(corpus.validation)), seed=run.seed,
                batch_size=5, draws=2, distributed=opened.distributed,
            )  # fmt: skip
            return found.loss, found.weight

        assert score() == score()
        labels = corpus.validation.batch(list(range(len(corpus.validation))))["labels"]
        assert isinstance(family, ImageFamily)
        assert score()[1] == pytest.approx(float(family.weight_K[labels].sum()))
        assert float(family.weight_K.std()) > 0.1


def test_averaged_weights_are_validated_and_do_not_stay_at_the_first_ones(story: Path, tmp_path: Path) -> None:
    """A half-life of a million steps in a run of ten: the average warms up instead."""
    run = small_run("image-diffusion", story, steps=10, eval_every=5, optimizer=FAST, ema=EMA(half_life=1e6))
    with open_session(run, tmp_path) as opened:
        start = [parameter.detach().clone() for parameter in opened.state.network.parameters()]
        train_until(opened, 10)
        assert opened.state.average is not None
        far = [
            sum(
                float((now.detach() - then).square().sum())
                for now, then in zip(network.parameters(), start, strict=True)
            )
            for network in (opened.state.average.network, opened.state.network)
        ]
    assert far[0] > 0.2 * far[1]
    assert validations(tmp_path, "ema").keys() == validations(tmp_path, "raw").keys() == {5, 10}


def test_patience_is_not_accepted_and_ignored(story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=2.0)
    run = small_run("image-diffusion", story, steps=40, eval_every=1, patience=2, optimizer=fast, save_every=40)
    stopped = train_in(tmp_path, run).step
    losses = validations(tmp_path, "ema")
    best = min(losses, key=lambda step: losses[step])
    assert stopped == best + 2 < 40


def test_a_single_channel_is_normalised_like_three() -> None:
    for channels in (1, 3):
        family = ImageDiffusion(process=Process(prediction="x0")).build(
            ImageAssets(size=8, channels=channels, classes=("a",), counts=(4,))
        )
        pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, channels, 8, 8)
        draws = Draws(seed=1, scope="train", positions_B=torch.arange(3), group=3)
        task = family.task({"pixels": pixels, "labels": torch.zeros(3).long()}, draws)
        expected = torch.tensor([-1.0, -0.6, 1.0]).view(3, 1, 1, 1).expand(3, channels, 8, 8)
        assert torch.allclose(task.targets_BCSS, expected)
