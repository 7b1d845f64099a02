"""Requests for images: invalid ones, the labels of each image, frames, thresholds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.images import ASSETS, images
from torch import nn

from seedfast.diffusion.guidance import clamped
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.models.unet import UNet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num must be at least 1"),
        ({"columns": 0}, "columns must be at least 1"),
        ({"eta": 2.0}, r"eta must be in \[0, 1\], not 2.0"),
        ({"eta": 0.5, "sampler": "heun"}, r"eta \(0.5\) has no effect without sampler ddim"),
        ({"variance": "large"}, r"variance \(large\) has no effect without sampler ddpm"),
        ({"percentile": 0.9}, r"percentile \(0.9\) has no effect without threshold dynamic"),
        ({"churn": 1.0}, r"churn \(1.0\) has no effect without sampler heun"),
        ({"churn": -1.0, "sampler": "heun"}, "churn must be at least 0, not -1.0"),
        ({"churn": float("inf"), "sampler": "heun"}, "churn must be a finite number, not inf"),
        ({"percentile": 1.5, "threshold": "dynamic"}, r"percentile must be in \(0, 1\], not 1.5"),
        ({"strength": 0.5}, r"strength \(0.5\) has no effect without image"),
        ({"strength": 0.0, "image": Path("x.png")}, r"strength must be in \(0, 1\], not 0.0"),
        ({"guidance": float("nan"), "label": ("a",)}, "guidance must be at least 0, not nan"),
        ({"strip": 1}, "at least 2 frames, not 1"),
        ({"label": ("a",), "all_classes": True}, "use one of them"),
    ],
    ids=str,
)
def test_invalid_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageRequest(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ("x",)}, 'no class "x"; there are a, b, c, and none for any class'),
        ({"steps": 101}, "1 to 100 steps, not 101"),
        ({"churn": 5.0, "sampler": "heun"}, "the schedule cosine, for which its network was not trained"),
        ({"image": Path("nowhere.png")}, r"nowhere.png cannot be read as an image"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_the_model_are_refused(
    options: dict[str, Any], message: str, family: Family, network: nn.Module
) -> None:
    with pytest.raises(UserError, match=message):
        images(family, network, **options)


def test_a_model_without_classes_refuses_labels() -> None:
    family = ImageDiffusion(conditional=False).build(ASSETS)
    with pytest.raises(UserError, match="trained without classes"):
        images(family, family.objective.network(UNet()), label=("a",))
    with pytest.raises(UserError, match=r"guidance 2\.0 needs classes"):
        images(family, family.objective.network(UNet()), guidance=2.0)


@pytest.mark.parametrize(
    "options",
    [{"label": ("none",)}, {"label": ("a",), "guidance": 3.0}, {"all_classes": True, "guidance": 0.0}],
    ids=str,
)
def test_a_null_label_that_was_never_trained_is_refused(options: dict[str, Any], network: nn.Module) -> None:
    family = ImageDiffusion(process=NoiseProcess(timesteps=100), class_dropout_prob=0.0).build(ASSETS)
    with pytest.raises(UserError, match="class_dropout_prob=0, so its null label was never trained"):
        images(family, network, **options)
    assert len(images(family, network, label=("a",))) == len(images(family, network)) == 5
    assert family.generator is not None
    assert "guidance 1," in family.generator.decoding(ImageRequest()), "the default needs no null label either"


def test_images_are_divided_among_labels_and_the_first_labels_get_the_remainder() -> None:
    labels = ImageRequest(num=5, label=("c", "a")).labels(ASSETS, conditional=True)
    assert labels == [2, 2, 2, 0, 0]
    mixed = ImageRequest(num=9, all_classes=True).labels(ASSETS, conditional=True)
    assert [mixed.count(k) for k in range(3)] == [5, 3, 1]
    assert ImageRequest(num=2, label=("none",)).labels(ASSETS, conditional=True) == [3, 3]
    assert ImageRequest(num=2).labels(ASSETS, conditional=False) == [3, 3]
    assert ImageRequest(num=2, image=Path("x.png")).labels(ASSETS, conditional=True) == [3, 3]
    assert ImageRequest(num=3, label=("b", "None")).labels(ASSETS, conditional=True) == [1, 1, 3]
    named = replace(ASSETS, classes=("a", "b", "none"))
    assert ImageRequest(num=1, label=("none",)).labels(named, conditional=True) == [2], "a class with this name"
    with pytest.raises(UserError, match=r"guidance 2\.0 needs a class besides"):
        ImageRequest(num=3, label=("none",), guidance=2.0).labels(ASSETS, conditional=True)


def test_without_labels_image_i_has_the_same_class_however_many_are_requested() -> None:
    labels = ImageRequest(num=900).labels(ASSETS, conditional=True)
    assert ImageRequest(num=40).labels(ASSETS, conditional=True) == labels[:40]
    found = np.bincount(labels) / 900
    assert found == pytest.approx(np.array(ASSETS.counts) / sum(ASSETS.counts), abs=0.01)


def test_the_default_decoding_is_said_with_its_network_evaluations(family: Family) -> None:
    assert family.generator is not None
    said = {
        "dpm++2m in 25 steps, guidance 1.5, 50 network evaluations for an image": ImageRequest(),
        "dpm++2m in 25 steps, guidance 1, 25 network evaluations for an image": ImageRequest(label=("none",)),
        "ddim in 50 steps, η 0.5, guidance 3, 100 network evaluations for an image": ImageRequest(
            label=("a",), guidance=3.0, sampler="ddim", eta=0.5
        ),
        "heun in 4 steps, guidance 1, 7 network evaluations for an image": ImageRequest(
            guidance=1.0, sampler="heun", steps=4
        ),
    }
    assert {family.generator.decoding(request): request for request in said.values()} == said


def test_the_demo_shows_the_largest_classes(family: Family) -> None:
    assert family.generator is not None
    assert family.generator.demo(None).label == ("a", "b", "c")  # type: ignore[arg-type]
    unconditional = ImageDiffusion(conditional=False).build(ASSETS)
    assert unconditional.generator is not None
    assert unconditional.generator.demo(None).label == ()  # type: ignore[arg-type]


def test_only_the_requested_frames_are_stored() -> None:
    assert ImageRequest(strip=4).frame_steps(6) == {0, 2, 4, 6}
    assert ImageRequest(gif=True).frame_steps(50) == {round(i * 50 / 15) for i in range(16)}
    assert ImageRequest().frame_steps(50) == set()


def test_churn_is_divided_among_the_steps_and_limited() -> None:
    process = NoiseProcess(schedule="edm", prediction="edm")
    request = ImageRequest(sampler="heun", churn=2.0)
    assert request.churn_per_step(process, 50) == 0.04
    assert request.churn_per_step(process, 2) == np.sqrt(2) - 1, "the variance at most doubles"


def test_the_dynamic_threshold_replaces_the_clamp() -> None:
    x0 = torch.linspace(-3, 3, 64).view(1, 1, 8, 8)
    found = ImageRequest(threshold="dynamic", percentile=1.0).thresholded(x0)
    assert torch.allclose(found, x0 / 3)
    assert not torch.allclose(found, clamped(x0))
