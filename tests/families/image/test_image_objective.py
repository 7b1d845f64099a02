"""The objective of image diffusion: invalid options, pixel scale, class weights, the error at each noise level."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.images import ASSETS
from torch import Tensor, nn

from seedfast import recipes
from seedfast.data.image.config import ImageData
from seedfast.data.image.dataset import ImageAssets
from seedfast.errors import UserError
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.keys import Draws
from seedfast.loop.plain_config import from_mapping


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_snr": 5.0, "process": NoiseProcess(zero_terminal_snr=True)}, "never be trained"),
        ({"min_snr": 5.0, "process": NoiseProcess(prediction="edm")}, "its own weighting"),
        ({"min_snr": 0.0}, "objective.min_snr must be positive, not 0.0"),
        ({"class_dropout_prob": 1.0}, r"objective.class_dropout_prob must be in \[0, 1\), not 1.0"),
        ({"class_dropout_prob": 0.2, "conditional": False}, "class_dropout_prob has no effect on an unconditional"),
        ({"class_weights": (1.0,)}, r"class_weights \(\(1.0,\)\) has no effect without objective.class_balance manual"),
        ({"class_balance": "manual"}, "class_balance manual needs objective.class_weights"),
        (
            {"class_balance_beta": 0.5},
            r"class_balance_beta \(0.5\) has no effect without objective.class_balance effective-number",
        ),
        (
            {"class_balance_beta": 2.0, "class_balance": "effective-number"},
            r"objective.class_balance_beta must be in \[0, 1\), not 2.0",
        ),
        ({"class_weights": (1.0, float("inf")), "class_balance": "manual"}, "class_weights must be positive, not inf"),
        ({"class_weights": (1.0, -1.0), "class_balance": "manual"}, "class_weights must be positive, not -1.0"),
        ({"evaluation_draws": 0}, "objective.evaluation_draws must be at least 1, not 0"),
    ],
    ids=str,
)
def test_invalid_objectives_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDiffusion(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditional": True}, "objective.conditional needs images of more than one class"),
        ({"class_dropout_prob": 0.2}, "objective.class_dropout_prob has no effect on images of one class"),
    ],
    ids=str,
)
def test_options_of_classes_are_refused_for_images_of_one_class(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDiffusion(**options).build(ImageAssets(size=8, channels=1, classes=("a",), counts=(4,)))


def test_options_are_read_under_their_earlier_names() -> None:
    old = {
        "objective": {"label_drop": 0.3, "process": {"times": 500, "prediction": "edm", "data_std": 0.4}},
        "data": {"label": "face", "unseen": "character", "balance": "effective-number", "beta": 0.9},
    }
    run = from_mapping(recipes.make("image-diffusion"), old, where="an old run")
    process = NoiseProcess(timesteps=500, prediction="edm", sigma_data=0.4)
    assert run.objective == ImageDiffusion(class_dropout_prob=0.3, process=process)
    assert run.data == ImageData(glyph_class="face", split_by="character", balance="effective-number", balance_beta=0.9)


def test_a_single_channel_is_normalised_like_three() -> None:
    for channels in (1, 3):
        objective = (
            ImageDiffusion(process=NoiseProcess(prediction="x0"))
            .build(ImageAssets(size=8, channels=channels, classes=("a",), counts=(4,)))
            .objective
        )
        pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, channels, 8, 8)
        draws = Draws(seed=1, scope="train", positions_B=torch.arange(3), group=3)
        task = objective.task({"pixels": pixels, "labels": torch.zeros(3).long()}, draws)
        expected = torch.tensor([-1.0, -0.6, 1.0]).view(3, 1, 1, 1).expand(3, channels, 8, 8)
        assert torch.allclose(task.targets_BCSS, expected)


# ---- the error at each noise level ----------------------------------------------------------------------------

PROCESSES = [
    NoiseProcess(),
    NoiseProcess(schedule="linear", prediction="eps"),
    NoiseProcess(timesteps=5, zero_terminal_snr=True),
    NoiseProcess(timesteps=16, zero_terminal_snr=True),
    NoiseProcess(schedule="flow", prediction="flow"),
    NoiseProcess(schedule="edm", prediction="edm"),
]


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_validation_measures_the_error_at_each_noise_level(process: NoiseProcess) -> None:
    """A network whose error depends on the noise level has these errors as its curve."""
    objective = ImageDiffusion(process=process, class_dropout_prob=0.0).build(ASSETS).objective
    (curve,) = objective.measure.curves.values()
    count = 16 * len(curve.points)
    draws_B = Draws(seed=1, scope="eval", positions_B=torch.arange(count), group=count)
    batch = {"pixels": torch.zeros(count, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(count).long()}
    task = objective.task(batch, draws_B)

    class Errs(nn.Module):
        def forward(self, x: Tensor, t_cond_B: Tensor, labels_B: Tensor) -> Tensor:
            return task.targets_BCSS + (t_cond_B + 1).view(-1, 1, 1, 1)

    found = objective.loss(Errs().eval(), task, {}).diagnostics
    assert list(found) == list(curve.points)
    assert all(float(weight) == 16 for _, weight in found.values()), "all bins are equally likely"
    errors = {name: float(pair[0] / pair[1]) for name, pair in found.items()}
    for name, error in errors.items():
        t_cond = float(name.split("/")[1])
        assert error == pytest.approx((t_cond + 1) ** 2, abs=0.15)
    by_snr = sorted(curve.points, key=lambda name: -curve.points[name])
    assert by_snr == sorted(by_snr, key=lambda name: errors[name]), "more noise is a smaller log SNR"
    assert all(-20 <= log_snr <= 20 for log_snr in curve.points.values())


def test_the_axis_is_the_logarithm_of_the_snr() -> None:
    objective = ImageDiffusion(process=NoiseProcess(schedule="flow", prediction="flow")).build(ASSETS).objective
    (curve,) = objective.measure.curves.values()
    assert curve.points["error_at_noise/0.031"] == pytest.approx(2 * np.log(31))
    assert curve.points["error_at_noise/0.969"] == pytest.approx(-2 * np.log(31))
