"""Identities 23 and 24 on the image family, and families that are wrong on purpose."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.diffusion.grids import Grid
from seedfast.diffusion.samplers import Denoise
from seedfast.families.image.family import ImageFamily, ImageTask
from seedfast.families.image.request import ImageRequest
from seedfast.keys import Draws
from seedfast.verify.identities import images


def test_24_a_perfect_network_has_loss_0_and_samples_the_truth() -> None:
    assert images.oracle().holds


class TellsAnotherTime(ImageFamily):
    """It tells the network a time that is a thousandth off."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task = super().task(batch, draws)
        return replace(task, told_B=(task.told_B + 0.0011).clamp(max=0.999))


class StopsTooEarly(ImageFamily):
    """It leaves out the last step, so some noise is left."""

    def _steps(
        self, network: nn.Module, x: Tensor, grid: Grid, labels_B: Tensor, request: ImageRequest, draws: Draws
    ) -> Iterator[Tensor]:
        return super()._steps(network, x, grid[:-1], labels_B, request, draws)


class NoisesTwice(ImageFamily):
    """Its targets belong to other noise than its inputs."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task, other = super().task(batch, draws), super().task(batch, draws.at(1))
        return replace(task, targets_BCSS=other.targets_BCSS)


@pytest.mark.parametrize("twin", [TellsAnotherTime, StopsTooEarly, NoisesTwice])
def test_24_twins_are_refused(twin: type[ImageFamily]) -> None:
    assert not images.oracle(twin).holds


def test_24_augmentation_is_of_training_only() -> None:
    assert images.augmentation().holds


class AugmentsAlways(ImageFamily):
    """It augments validation images too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.training = True


class AugmentsNever(ImageFamily):
    """It forgets to augment."""

    def at(self, step: int) -> ImageFamily:  # type: ignore[override]
        return self


@pytest.mark.parametrize("twin", [AugmentsAlways, AugmentsNever])
def test_24_twins_of_augmentation_are_refused(twin: type[ImageFamily]) -> None:
    assert not images.augmentation(twin).holds


def test_23_a_missing_label_is_the_null_label() -> None:
    assert images.null_label().holds


class SkipsTheLabel(ImageFamily):
    """Without a label it takes the first class."""

    def denoiser(self, network: nn.Module, labels_B: Tensor, request: ImageRequest) -> Denoise:
        return super().denoiser(network, labels_B.masked_fill(labels_B == self.null, 0), request)


class NeverDrops(ImageFamily):
    """It never trains the null label."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task = super().task(batch, draws)
        return replace(task, labels_B=batch["labels"])


@pytest.mark.parametrize("twin", [SkipsTheLabel, NeverDrops])
def test_23_twins_are_refused(twin: type[ImageFamily]) -> None:
    assert not images.null_label(twin).holds


def test_the_levels_of_a_batch_are_spread_evenly() -> None:
    """The validation grid: each image is scored at one level in each of its strata, the same each time."""
    family = ImageFamily(images.ImageDiffusion(), images._ASSETS)
    pixels = images._pixels()[:1].repeat(8, 1, 1, 1)
    draws = Draws(seed=3, scope="eval", positions_B=torch.arange(8, 16), group=8)
    task = family.task({"pixels": pixels, "labels": torch.zeros(8, dtype=torch.int64)}, draws)
    assert [two // 2 for two in sorted(task.range_B.tolist())] == list(range(8)), "sixteen ranges, eight draws"
    again = family.task({"pixels": pixels, "labels": torch.zeros(8, dtype=torch.int64)}, draws)
    assert torch.equal(task.inputs_BCSS, again.inputs_BCSS)
