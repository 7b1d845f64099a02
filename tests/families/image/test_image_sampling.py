"""Sampling of images: every option has an effect, batches have none, and images can start from an image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.images import ASSETS, draws, images
from tests.helpers.quick import slow_but
from torch import nn

from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import to_uint8
from seedfast.families.image.sampling import ImageGenerator

PROCESS = NoiseProcess(timesteps=100)

SAMPLERS: list[dict[str, Any]] = [
    {}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}, {"sampler": "ddpm"},
    {"sampler": "ddpm", "variance": "large"}, {"sampler": "dpm++2m"}, {"sampler": "dpm++2s"}, {"sampler": "heun"},
    {"sampler": "euler"}, {"label": ("b",)}, {"label": ("b",), "guidance": 3.0}, {"threshold": "dynamic"},
    {"threshold": "none"}, {"spacing": "leading"}, {"spacing": "linspace"}, {"all_classes": True}, {"steps": 7},
]  # fmt: skip


def test_every_option_of_sampling_has_an_effect(family: Family, network: nn.Module) -> None:
    found = {str(options): images(family, network, **options) for options in SAMPLERS}
    same = {frozenset((a, b)) for a in found for b in found if a < b and torch.equal(found[a], found[b])}
    assert same == {
        frozenset(("{}", "{'sampler': 'dpm++2m'}")),  # the default
        frozenset(("{'sampler': 'ddim'}", "{'sampler': 'euler'}")),
        frozenset(("{'sampler': 'ddim', 'eta': 1.0}", "{'sampler': 'ddpm'}")),
    }


QUICK = [
    {}, {"sampler": "ddpm"}, {"sampler": "dpm++2s"}, {"label": ("b",), "guidance": 3.0}, {"threshold": "dynamic"},
    {"all_classes": True},
]  # fmt: skip


@pytest.mark.parametrize("options", slow_but(QUICK, SAMPLERS), ids=str)
def test_batches_limit_the_memory_and_change_no_image(
    options: dict[str, Any], family: Family, network: nn.Module
) -> None:
    whole = images(family, network, **options)
    parts = images(family, network, **options, batch=2)
    assert (whole.int() - parts.int()).abs().max() <= 1
    fewer = images(family, network, **{**options, "num": 3}) if not options.get("all_classes") else whole[:3]
    assert (whole[:3].int() - fewer.int()).abs().max() <= 1


def test_churn_adds_noise(network: nn.Module) -> None:
    family = ImageDiffusion(process=NoiseProcess(schedule="edm", prediction="edm")).build(ASSETS)
    plain = images(family, network, sampler="heun")
    assert torch.equal(images(family, network, sampler="heun", churn=0.0), plain)
    assert not torch.equal(images(family, network, sampler="heun", churn=1.0), plain)


# ---- from an image --------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path) -> Path:
    values = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) * 4
    Image.fromarray(values[0].numpy()).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def test_an_image_is_noised_to_the_level_at_which_sampling_starts(given: Path, family: Family) -> None:
    assert isinstance(family.generator, ImageGenerator)
    for strength in (0.2, 0.5, 1.0):
        request = ImageRequest(num=4, image=given, strength=strength, steps=10)
        grid = request.grid(PROCESS)
        x0 = request.start_image(ASSETS)
        x = family.generator.initial(grid, request, draws(4))
        added = (x - grid[0].a * x0) / grid[0].s
        assert torch.allclose(added.float(), draws(4).normal("start", 1, 8, 8), atol=1e-5)
        assert float(grid[0].time) / 100 <= strength
        assert strength - float(grid[0].time) / 100 < 0.11


def test_less_noise_than_the_last_step_removes_is_refused(given: Path) -> None:
    with pytest.raises(UserError, match=r"strength 0.05 is less than the 0.09 from which the last of 10 steps starts"):
        ImageRequest(image=given, strength=0.05, steps=10).grid(PROCESS)
    assert len(ImageRequest(image=given, strength=0.05, steps=20).grid(PROCESS)) == 2


def test_less_noise_stays_closer_to_the_image(given: Path, family: Family, network: nn.Module) -> None:
    x0 = to_uint8(ImageRequest(image=given).start_image(ASSETS)).int()
    distances = [
        float((images(family, network, image=given, strength=strength, steps=50).int() - x0).abs().double().mean())
        for strength in (0.02, 0.2, 0.9)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 5
