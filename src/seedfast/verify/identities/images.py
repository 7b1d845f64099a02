"""Identities 23 and 24 for the family of images: a perfect network has loss 0 and samples the truth."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.image.config import ImageAssets
from seedfast.diffusion.levels import Level, eps_of, exploding, flow, over
from seedfast.diffusion.parameterisation import input_std, target
from seedfast.errors import UserError
from seedfast.families.image.augment import Augment
from seedfast.families.image.family import ImageDiffusion, ImageFamily
from seedfast.families.image.noise_process import Process
from seedfast.families.image.request import ImageRequest
from seedfast.keys import Draws
from seedfast.verify.identities.check import Check

_ASSETS = ImageAssets(size=4, channels=1, classes=("a", "b"), counts=(3, 1))
Build = Callable[[ImageDiffusion, ImageAssets], ImageFamily]


class Oracle(nn.Module):
    """A network that knows the clean image of each class, and so the right answer to every question.

    It finds the noise level in what it is told, so an input of another level than the one that is told has another
    answer. Labels that it was given are kept in `seen`.
    """

    def __init__(self, process: Process, x0_KCSS: Tensor) -> None:
        super().__init__()
        self.process, self.x0_KCSS = process, x0_KCSS
        self.seen: list[Tensor] = []

    def level(self, told_B: Tensor) -> Level:
        """The level that was meant: the inverse of `Process.told`."""
        match self.process.schedule:
            case "flow":
                return flow(told_B.double())
            case "edm":
                return exploding((math.log(0.002) + told_B.double() * math.log(80.0 / 0.002)).exp())
        return self.process.table.at((told_B.double() * len(self.process.table)).round().long())

    def forward(self, inputs: Tensor, told_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """The right answer, where the label is the class of the image (the null label: of the first)."""
        assert labels_B is not None
        self.seen.append(labels_B)
        level = self.level(told_B)
        x = inputs.double() * over(input_std(level, self.process.std), inputs.double())
        x0 = self.x0_KCSS[labels_B % len(self.x0_KCSS)].double()
        answer = target(self.process.prediction, x0, eps_of(x, x0, level), level, self.process.std)
        return answer.float()


def _pixels() -> Tensor:
    """One image of each class, uint8."""
    return (torch.arange(32).view(2, 1, 4, 4) * 37 % 256).to(torch.uint8)


def _options() -> list[ImageDiffusion]:
    """Every objective that is allowed, with every weighting."""
    found = []
    schedules = ("linear", "cosine", "quadratic", "sigmoid", "flow", "edm")
    for schedule, prediction, zero in product(schedules, ("eps", "x0", "v", "flow", "edm"), (False, True)):
        try:
            process = Process(schedule=schedule, prediction=prediction, zero_terminal_snr=zero)  # type: ignore[arg-type]
        except UserError:
            continue
        found.append(ImageDiffusion(process=process, label_drop=0.0))
        if not zero and prediction != "edm":
            found.append(replace(found[-1], min_snr=5.0, class_balance="inverse-frequency"))
    return found


@torch.no_grad()
def oracle(build: Build = ImageFamily) -> Check:
    """24. A perfect network has loss 0 for every schedule, prediction and weighting; every sampler ends at the truth.

    What is compared is the root of the loss over that of the answers' mean square: the relative size of an error.
    """
    pixels = _pixels()
    x0 = pixels.float() / 127.5 - 1
    batch: Batch = {"pixels": pixels.repeat(16, 1, 1, 1), "labels": torch.arange(2).repeat(16)}
    draws = Draws(seed=0, scope="identity 24", positions_B=torch.arange(32), group=32)
    worst, sampled, options = 0.0, 0.0, _options()
    for each in options:
        family = build(each, _ASSETS)
        network = Oracle(each.process, x0).eval()
        task = family.task(batch, draws)
        scale = float((task.targets_BCSS.square().mean(dim=(1, 2, 3)) * task.scale_B).sum())
        worst = max(worst, math.sqrt(float(family.loss(network, task, {}).total_B.sum()) / scale))
        if each.min_snr is None:
            for sampler, steps in product(("ddpm", "ddim", "dpm++2m", "dpm++2s", "heun", "euler"), (1, 4)):
                request = ImageRequest(num=2, label=("a", "b"), sampler=sampler, steps=steps)  # type: ignore[arg-type]
                made = family.sample(network, request, replace(draws, positions_B=torch.arange(2)), {})
                sampled = max(sampled, float((made.images_NCSS.int() - pixels.int()).abs().max()))
    detail = (
        f"{len(options)} objectives: relative error {worst:.0e}; samples differ from the truth by {sampled:g} of 255"
    )
    return Check("oracle", "oracle", worst < 1e-3 and sampled <= 1, detail)


@torch.no_grad()
def null_label(build: Build = ImageFamily) -> Check:
    """23. No label is the trained null label; guidance asks for it too, at the same x, and scale 1 does not ask."""
    family = build(ImageDiffusion(), _ASSETS)
    draws = Draws(seed=0, scope="identity 23", positions_B=torch.arange(2))
    asked: dict[str, list[list[int]]] = {}
    for name, request in (
        ("none", ImageRequest(num=2, steps=1)),
        ("plain", ImageRequest(num=2, steps=1, label=("b",))),
        ("guided", ImageRequest(num=2, steps=1, label=("b",), guidance=3.0)),
    ):
        network = Oracle(family.process, _pixels().float() / 127.5 - 1).eval()
        family.sample(network, request, draws, {})
        asked[name] = [labels.tolist() for labels in network.seen]
    null = family.null
    holds = asked == {"none": [[null, null]], "plain": [[1, 1]], "guided": [[null, null, 1, 1]]}
    batch: Batch = {"pixels": _pixels().repeat(5000, 1, 1, 1), "labels": torch.arange(2).repeat(5000)}
    task = family.task(batch, Draws(seed=0, scope="identity 23", positions_B=torch.arange(10_000), group=10_000))
    dropped = float((task.labels_B == null).double().mean())
    detail = f"asked with {asked}; in training dropped {dropped:.3f} of the time, as wanted"
    return Check("guidance", "null label", holds and abs(dropped - family.label_drop) < 0.01, detail)


@torch.no_grad()
def augmentation(build: Build = ImageFamily) -> Check:
    """24. In training an augmented image is noised as it is, so an oracle of what it became still has loss 0."""
    pixels = _pixels()
    family = build(ImageDiffusion(augment=Augment(flip=True), label_drop=0.0), _ASSETS)
    batch: Batch = {"pixels": pixels[:1].repeat(64, 1, 1, 1), "labels": torch.zeros(64, dtype=torch.int64)}
    draws = Draws(seed=0, scope="identity 24", positions_B=torch.arange(64), group=64)
    x0 = pixels.float() / 127.5 - 1
    network = Oracle(family.process, x0).eval()
    flipped = Oracle(family.process, x0.flip(-1)).eval()
    task = family.at(0).task(batch, draws)
    losses = torch.stack([family.loss(each, task, {}).total_B for each in (network, flipped)])
    validated = float(family.loss(network, family.task(batch, draws), {}).total_B.max())
    share = float((losses[1] < 1e-6).double().mean())
    holds = float(losses.amin(dim=0).max()) < 1e-6 and 0.3 < share < 0.7 and validated < 1e-6
    return Check("oracle", "augmentation", holds, f"{share:.2f} of the images flipped, in training only")
