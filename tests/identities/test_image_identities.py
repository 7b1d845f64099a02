"""The identities of the image family (docs/identities.md#oracle and #guidance), and deliberately broken twins."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.image.dataset import ImageAssets
from seedfast.diffusion.grids import Grid
from seedfast.diffusion.samplers import Denoise
from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion, ImageObjective, ImageTask
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.sampling import ImageGenerator
from seedfast.keys import Draws
from seedfast.verify.identities import images

Build = Callable[[ImageDiffusion, ImageAssets], Family]


def with_objective(kind: type[ImageObjective]) -> Build:
    """Builds a family with a broken objective."""

    def build(options: ImageDiffusion, assets: ImageAssets) -> Family:
        family = options.build(assets)
        assert isinstance(family.objective, ImageObjective)
        return replace(family, objective=kind(options, family.objective.conditioning))

    return build


def with_generator(kind: type[ImageGenerator]) -> Build:
    """Builds a family with a broken generator."""

    def build(options: ImageDiffusion, assets: ImageAssets) -> Family:
        family = options.build(assets)
        assert isinstance(family.generator, ImageGenerator)
        return replace(family, generator=kind(options.process, family.generator.conditioning))

    return build


class WrongTime(ImageObjective):
    """Its time input is a thousandth off."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task = super().task(batch, draws)
        return replace(task, t_cond_B=(task.t_cond_B + 0.0011).clamp(max=0.999))


class NoisesTwice(ImageObjective):
    """Its targets belong to other noise than its inputs."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task, other = super().task(batch, draws), super().task(batch, draws.at(1))
        return replace(task, targets_BCSS=other.targets_BCSS)


class StopsTooEarly(ImageGenerator):
    """It leaves out the last step, so some noise remains."""

    def steps(
        self, network: nn.Module, x: Tensor, grid: Grid, labels_B: Tensor, request: ImageRequest, draws: Draws
    ) -> Iterator[Tensor]:
        return super().steps(network, x, grid[:-1], labels_B, request, draws)


@pytest.mark.parametrize(
    "build", [with_objective(WrongTime), with_objective(NoisesTwice), with_generator(StopsTooEarly)],
    ids=["wrong time", "noises twice", "stops too early"],
)  # fmt: skip
def test_broken_twins_of_the_oracle_are_refused(build: Build) -> None:
    assert not images.oracle(build).holds


class AugmentsAlways(ImageObjective):
    """It augments validation images too."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        self.augments = True
        return super().task(batch, draws)


class AugmentsNever(ImageObjective):
    """It never augments."""

    def for_step(self, step: int) -> "AugmentsNever":
        return self


@pytest.mark.parametrize("twin", [AugmentsAlways, AugmentsNever])
def test_broken_twins_of_augmentation_are_refused(twin: type[ImageObjective]) -> None:
    assert not images.augmentation(with_objective(twin)).holds


class SkipsTheLabel(ImageGenerator):
    """Without a label it takes the first class."""

    def denoiser(self, network: nn.Module, labels_B: Tensor, request: ImageRequest) -> Denoise:
        return super().denoiser(network, labels_B.masked_fill(labels_B == images.NULL_LABEL, 0), request)


class NeverDrops(ImageObjective):
    """It never trains the null label."""

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        task = super().task(batch, draws)
        return replace(task, labels_B=batch["labels"])


@pytest.mark.parametrize(
    "build", [with_generator(SkipsTheLabel), with_objective(NeverDrops)], ids=["skips the label", "never drops"]
)
def test_broken_twins_of_the_null_label_are_refused(build: Build) -> None:
    assert not images.null_label(build).holds


def test_the_noise_levels_of_a_batch_are_spread_evenly() -> None:
    """Validation scores each image at one level in each of its strata, the same each time."""
    objective = ImageDiffusion().build(images.ASSETS).objective
    pixels = images.pixels_of_classes()[:1].repeat(8, 1, 1, 1)
    draws = Draws(seed=3, scope="eval", positions_B=torch.arange(8, 16), group=8)
    task = objective.task({"pixels": pixels, "labels": torch.zeros(8, dtype=torch.int64)}, draws)
    assert [bin // 2 for bin in sorted(task.bin_B.tolist())] == list(range(8)), "sixteen bins, eight draws"
    again = objective.task({"pixels": pixels, "labels": torch.zeros(8, dtype=torch.int64)}, draws)
    assert torch.equal(task.inputs_BCSS, again.inputs_BCSS)
