"""The image family with perfect networks: zero loss, and samples that are the true images.

The identities are docs/identities.md#oracle and #guidance.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.image.dataset import ImageAssets
from seedfast.diffusion.levels import NoiseLevel, eps_from_x0, flow, match_dims, variance_exploding
from seedfast.diffusion.parameterisation import input_std, target
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.image.augment import Augment
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.keys import Draws
from seedfast.verify.identities.check import Check

ASSETS = ImageAssets(size=4, channels=1, classes=("a", "b"), counts=(3, 1))
NULL_LABEL = len(ASSETS.classes)
Build = Callable[[ImageDiffusion, ImageAssets], Family]


class Oracle(nn.Module):
    """A network that knows the image of each class, and therefore the exact target of every input.

    It derives the noise level from its time input, so an input at any other level has a wrong answer. The labels of all
    calls are stored in `labels`.
    """

    def __init__(self, process: NoiseProcess, x0_KCSS: Tensor) -> None:
        super().__init__()
        self.process, self.x0_KCSS = process, x0_KCSS
        self.labels: list[Tensor] = []

    def level(self, t_cond_B: Tensor) -> NoiseLevel:
        """The level of a time input: the inverse of `NoiseProcess.t_cond`."""
        match self.process.schedule:
            case "flow":
                return flow(t_cond_B.double())
            case "edm":
                return variance_exploding((math.log(0.002) + t_cond_B.double() * math.log(80.0 / 0.002)).exp())
        return self.process.table.at((t_cond_B.double() * len(self.process.table)).round().long())

    def forward(self, inputs: Tensor, t_cond_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """The exact target for the image of each label's class (for the null label: of the first class)."""
        assert labels_B is not None
        self.labels.append(labels_B)
        level = self.level(t_cond_B)
        std = self.process.scaling_std
        x = inputs.double() * match_dims(input_std(level, std), inputs.double())
        x0 = self.x0_KCSS[labels_B % len(self.x0_KCSS)].double()
        return target(self.process.prediction, x0, eps_from_x0(x, x0, level), level, std).float()


def pixels_of_classes() -> Tensor:
    """One image of each class, uint8 [K, C, S, S]."""
    return (torch.arange(32).view(2, 1, 4, 4) * 37 % 256).to(torch.uint8)


def all_options() -> list[ImageDiffusion]:
    """Every valid combination of schedule and prediction, with every weighting."""
    found = []
    schedules = ("linear", "cosine", "quadratic", "sigmoid", "flow", "edm")
    for schedule, prediction, zero in product(schedules, ("eps", "x0", "v", "flow", "edm"), (False, True)):
        try:
            process = NoiseProcess(schedule=schedule, prediction=prediction, zero_terminal_snr=zero)  # type: ignore[arg-type]
        except UserError:
            continue
        found.append(ImageDiffusion(process=process, class_dropout_prob=0.0))
        if not zero and prediction != "edm":
            found.append(replace(found[-1], min_snr=5.0, class_balance="inverse-frequency"))
    return found


def generate(family: Family, network: nn.Module, request: ImageRequest, draws: Draws) -> Tensor:
    """Images of a request, uint8 [N, C, S, S]."""
    assert family.generator is not None
    samples = family.generator.generate(network, request, draws, {})
    assert isinstance(samples, ImageSamples)
    return samples.images_NCSS


@torch.no_grad()
def oracle(build: Build = ImageDiffusion.build) -> Check:
    """A perfect network has loss 0 for every schedule, prediction and weighting; every sampler ends at the true image.

    The measured value is the root of the loss over that of the targets' mean square: a relative error.
    """
    pixels = pixels_of_classes()
    x0 = pixels.float() / 127.5 - 1
    batch: Batch = {"pixels": pixels.repeat(16, 1, 1, 1), "labels": torch.arange(2).repeat(16)}
    draws = Draws(seed=0, scope="identity 24", positions_B=torch.arange(32), group=32)
    worst, sampled, options = 0.0, 0.0, all_options()
    for each in options:
        family = build(each, ASSETS)
        network = Oracle(each.process, x0).eval()
        task = family.objective.task(batch, draws)
        scale = float((task.targets_BCSS.square().mean(dim=(1, 2, 3)) * task.scale_B).sum())
        worst = max(worst, math.sqrt(float(family.objective.loss(network, task, {}).total_B.sum()) / scale))
        if each.min_snr is None:
            for sampler, steps in product(("ddpm", "ddim", "dpm++2m", "dpm++2s", "heun", "euler"), (1, 4)):
                request = ImageRequest(num=2, label=("a", "b"), sampler=sampler, steps=steps)  # type: ignore[arg-type]
                images_NCSS = generate(family, network, request, replace(draws, positions_B=torch.arange(2)))
                sampled = max(sampled, float((images_NCSS.int() - pixels.int()).abs().max()))
    detail = (
        f"{len(options)} objectives: relative error {worst:.0e}; samples differ from the truth by {sampled:g} of 255"
    )
    return Check("oracle", "oracle", worst < 1e-3 and sampled <= 1, detail)


@torch.no_grad()
def null_label(build: Build = ImageDiffusion.build) -> Check:
    """For the label none the network receives the trained null label; guidance evaluates both labels, 1 only one."""
    options = ImageDiffusion()
    family = build(options, ASSETS)
    draws = Draws(seed=0, scope="identity 23", positions_B=torch.arange(2))
    received: dict[str, list[list[int]]] = {}
    for name, request in (
        ("none", ImageRequest(num=2, steps=1, label=("none",))),
        ("plain", ImageRequest(num=2, steps=1, label=("b",), guidance=1.0)),
        ("guided", ImageRequest(num=2, steps=1, label=("b",), guidance=3.0)),
    ):
        network = Oracle(options.process, pixels_of_classes().float() / 127.5 - 1).eval()
        generate(family, network, request, draws)
        received[name] = [labels.tolist() for labels in network.labels]
    null = NULL_LABEL
    holds = received == {"none": [[null, null]], "plain": [[1, 1]], "guided": [[null, null, 1, 1]]}
    batch: Batch = {"pixels": pixels_of_classes().repeat(5000, 1, 1, 1), "labels": torch.arange(2).repeat(5000)}
    task = family.objective.task(
        batch, Draws(seed=0, scope="identity 23", positions_B=torch.arange(10_000), group=10_000)
    )
    dropped = float((task.labels_B == null).double().mean())
    detail = f"labels of the network: {received}; null label in {dropped:.3f} of the training examples (0.1 expected)"
    return Check("guidance", "null label", holds and abs(dropped - 0.1) < 0.01, detail)


@torch.no_grad()
def augmentation(build: Build = ImageDiffusion.build) -> Check:
    """In training the augmented image is noised, so an oracle that knows the augmented image has loss 0."""
    pixels = pixels_of_classes()
    options = ImageDiffusion(augment=Augment(flip=True), class_dropout_prob=0.0)
    objective = build(options, ASSETS).objective
    batch: Batch = {"pixels": pixels[:1].repeat(64, 1, 1, 1), "labels": torch.zeros(64, dtype=torch.int64)}
    draws = Draws(seed=0, scope="identity 24", positions_B=torch.arange(64), group=64)
    x0 = pixels.float() / 127.5 - 1
    network = Oracle(options.process, x0).eval()
    flipped = Oracle(options.process, x0.flip(-1)).eval()
    task = objective.for_step(0).task(batch, draws)
    losses = torch.stack([objective.loss(each, task, {}).total_B for each in (network, flipped)])
    validated = float(objective.loss(network, objective.task(batch, draws), {}).total_B.max())
    part = float((losses[1] < 1e-6).double().mean())
    holds = float(losses.amin(dim=0).max()) < 1e-6 and 0.3 < part < 0.7 and validated < 1e-6
    return Check("oracle", "augmentation", holds, f"{part:.2f} of the images flipped, in training only")
