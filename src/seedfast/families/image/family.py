"""Image diffusion: a network learns to remove Gaussian noise, and images are what is left when all is removed.

Shapes: B batch, C channels, S height and width, N levels of a sampler's grid.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.image.balance import BETA, Balance, check_balance, class_weights
from seedfast.data.image.config import ImageAssets
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid
from seedfast.diffusion.guidance import guided
from seedfast.diffusion.levels import Level, noised, over
from seedfast.diffusion.parameterisation import input_std, min_snr_weight, target, to_x0
from seedfast.errors import UserError
from seedfast.families.family import Family, State, Task, Terms
from seedfast.families.image.augment import Augment, augmented
from seedfast.families.image.noise_process import Process
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import SHOWN, ImageSamples, picture_of
from seedfast.families.profile import Profile
from seedfast.keys import Draws

LEVELS = 16
"""Into how many ranges of the noise level a validation error is divided, each as likely in training."""


@dataclass(frozen=True, kw_only=True)
class ImageDiffusion:
    """Gaussian diffusion of pixels."""

    process: Process = field(default_factory=Process)
    """The noise, and what of it is predicted."""
    min_snr: float | None = None
    """Weight the squared error of x0 by min(SNR, this) (Hang et al. 2023; 5 is usual), not the prediction's by 1."""
    conditional: bool | None = None
    """Tell the network each image's class (default: if there is more than one)."""
    label_drop: float | None = None
    """How often it is told the null label instead, so that classifier-free guidance has a baseline (default 0.1)."""
    class_balance: Balance | None = None
    """Count the losses of small classes more: by inverse frequency, effective number or manual weights."""
    beta: float = BETA
    """β of the effective number (Cui et al. 2019)."""
    class_weights: tuple[float, ...] = ()
    """Manual weights, in the order of the classes' names."""
    augment: Augment = field(default_factory=Augment)
    """How training images are varied; validation images are not."""
    evaluation_draws: int = 8
    """Noise levels at which each validation image is scored: fixed, and spread evenly over all levels."""

    def __post_init__(self) -> None:
        if self.min_snr is not None and not self.min_snr > 0:
            raise UserError(f"objective.min_snr must be positive, not {self.min_snr}.")
        if self.min_snr is not None and self.process.zero_terminal_snr:
            raise UserError(
                "Min-SNR weighting gives the time without signal, where zero terminal SNR lets sampling start, the "
                "weight 0, so it would never be trained: leave out one of the two."
            )
        if self.min_snr is not None and self.process.prediction == "edm":
            raise UserError("The prediction edm brings its own weighting: leave min_snr out.")
        if self.label_drop is not None and not 0 <= self.label_drop < 1:
            raise UserError(f"objective.label_drop must lie in [0, 1), not {self.label_drop}.")
        if self.label_drop is not None and self.conditional is False:
            raise UserError("objective.label_drop has no effect on an unconditional model: leave it out.")
        check_balance("objective.", "class_balance", self.class_balance, beta=self.beta, manual=self.class_weights)
        if self.evaluation_draws < 1:
            raise UserError(f"objective.evaluation_draws must be at least 1, not {self.evaluation_draws}.")

    def build(self, assets: ImageAssets) -> "ImageFamily":
        """The family, for images of this size and these classes."""
        return ImageFamily(self, assets)


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """Noised images.

    inputs_BCSS: what the network sees, float32. targets_BCSS: what it should answer. told_B: the time it is told.
    labels_B: the class it is told, or the null label. scale_B: what the squared error counts.
    range_B: in which of the family's ranges of the noise level each is.
    """

    inputs_BCSS: Tensor
    targets_BCSS: Tensor
    told_B: Tensor
    labels_B: Tensor
    scale_B: Tensor
    range_B: Tensor


class ImageFamily(Family):
    """The image diffusion family. The null label has the id after the last class's."""

    is_bound = False
    counts = "images"
    quantity = "squared_error"
    units: Mapping[str, float] = {}
    request = ImageRequest
    training = False

    def __init__(self, options: ImageDiffusion, assets: ImageAssets) -> None:
        self.options, self.assets, self.process = options, assets, options.process
        self.evaluation_draws = options.evaluation_draws
        self.conditional = len(assets.classes) > 1 if options.conditional is None else options.conditional
        if self.conditional and len(assets.classes) < 2:
            raise UserError("objective.conditional needs images of more than one class: leave it out.")
        if options.label_drop is not None and not self.conditional:
            raise UserError("objective.label_drop has no effect on images of one class: leave it out.")
        self.null = len(assets.classes)
        self.label_drop = 0.1 if options.label_drop is None else options.label_drop
        self.weight_K = torch.tensor(
            class_weights(assets.counts, options.class_balance, beta=options.beta, manual=options.class_weights)
        )
        middles = self.process.middles(LEVELS)
        names = [f"error_at_noise/{told:.3f}" for told in self.process.told(middles).tolist()]
        # Without any signal, at zero terminal SNR, the logarithm has no end.
        self.ranges = dict(zip(names, (-middles.gamma).clamp(-20, 20).tolist(), strict=True))
        title = f"squared error of {self.process.prediction} at each noise level"
        self.profiles = {title: Profile(axis="log SNR, from noise to image", points=self.ranges)}

    def at(self, step: int) -> Self:
        """In training, images are augmented."""
        family = copy(self)
        family.training = bool(self.options.augment)
        return family

    def network(self, model: Any) -> nn.Module:
        """A network of images: x, time and label to what is predicted."""
        classes = len(self.assets.classes) if self.conditional else 1
        network: nn.Module = model.build(size=self.assets.size, channels=self.assets.channels, classes=classes)
        return network

    def task(self, batch: Batch, draws: Draws) -> ImageTask:
        """Noise each image to a level of its own; the levels are spread evenly over the global batch."""
        x0 = batch["pixels"].float() / 127.5 - 1
        if self.training:
            x0 = augmented(x0, self.options.augment, draws)
        quantile_B = draws.stratified("time")
        level = self.process.level(quantile_B)
        eps = draws.normal("noise", *x0.shape[1:])
        prediction, std = self.process.prediction, self.process.std
        x = noised(x0, eps, level)
        labels_B = batch["labels"]
        if self.conditional:
            dropped_B = draws.uniform("label-drop", 1)[:, 0] < self.label_drop
            labels_B = labels_B.masked_fill(dropped_B, self.null)
        weight_B = self.weight_K[batch["labels"]]
        clip = self.options.min_snr
        scale_B = torch.ones_like(level.a) if clip is None else min_snr_weight(prediction, level, clip)
        return ImageTask(
            weight_B=weight_B,
            inputs_BCSS=x / over(input_std(level, std), x),
            targets_BCSS=target(prediction, x0, eps, level, std),
            told_B=self.process.told(level).float(),
            labels_B=labels_B,
            scale_B=scale_B.float() * weight_B,
            range_B=(quantile_B * len(self.ranges)).long(),
        )

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """The weighted squared error of each image, averaged over its pixels."""
        assert isinstance(task, ImageTask)
        answers = network(task.inputs_BCSS, task.told_B, task.labels_B if self.conditional else None).float()
        error_B = (answers - task.targets_BCSS).square().mean(dim=(1, 2, 3))
        if network.training:
            return Terms(total_B=error_B * task.scale_B)
        here_BR = F.one_hot(task.range_B, len(self.ranges)).to(error_B.dtype)
        sums_2R = torch.stack([error_B, torch.ones_like(error_B)]) @ here_BR
        return Terms(total_B=error_B * task.scale_B, diagnostics=dict(zip(self.ranges, sums_2R.unbind(1), strict=True)))

    def denoiser(self, network: nn.Module, labels_B: Tensor, request: ImageRequest) -> samplers.Denoise:
        """(x, level) → x0, guided towards the labels and thresholded as the request says.

        No label is the null label, which was trained, never a network without its label.
        """

        def ask(x: Tensor, level: Level, labels: Tensor) -> Tensor:
            told = self.process.told(level).float().to(x.device).expand(len(x))
            inputs = x / input_std(level, self.process.std)
            answer = network(inputs, told, labels if self.conditional else None).float()
            return to_x0(self.process.prediction, answer, x, level, self.process.std)

        def denoise(x: Tensor, level: Level) -> Tensor:
            if request.guidance == 1:
                x0 = ask(x, level, labels_B)
            else:
                both = ask(torch.cat([x, x]), level, torch.cat([torch.full_like(labels_B, self.null), labels_B]))
                unconditional, conditional = both.chunk(2)
                x0 = guided(unconditional, conditional, request.guidance)
            return request.thresholded(x0)

        return denoise

    @torch.no_grad()
    def sample(self, network: nn.Module, request: Any, draws: Draws, state: State) -> ImageSamples:
        """Images from noise, or from an image that is noised first; in batches, of which none changes another."""
        assert isinstance(request, ImageRequest)
        labels = request.labels(self.assets, conditional=self.conditional)
        if self.conditional and self.label_drop == 0 and (self.null in labels or request.guidance != 1):
            raise UserError(
                "This model was trained with objective.label_drop=0, so its null label was never trained: name a class "
                "with --label (or take all with --mix), and leave --guidance at 1."
            )
        grid = request.grid(self.process)
        kept = request.kept(len(grid) - 1)
        made: list[Tensor] = []
        frames: list[list[Tensor]] = []
        for start in range(0, request.num, request.batch):
            part = replace(draws, positions_B=draws.positions_B[start : start + request.batch])
            labels_B = torch.tensor(labels[start : start + request.batch], device=part.positions_B.device)
            traced = []
            first = self._start(grid, request, part)
            for step, x in enumerate(chain([first], self._steps(network, first, grid, labels_B, request, part))):
                if step in kept and start < SHOWN:
                    traced.append(picture_of(x[: SHOWN - start]))
            made.append(picture_of(x))
            if traced:
                frames.append(traced)
        return ImageSamples.of(made, frames, labels, self.assets.classes, request)

    def _start(self, grid: Grid, request: ImageRequest, draws: Draws) -> Tensor:
        shape = (self.assets.channels, self.assets.size, self.assets.size)
        noise = draws.normal("start", *shape)
        if request.image is None:
            return noise * input_std(grid[0], self.process.std)
        x0 = request.pixels(self.assets).to(noise.device).expand_as(noise)
        return noised(x0, noise, grid[0])

    def _steps(
        self, network: nn.Module, x: Tensor, grid: Grid, labels_B: Tensor, request: ImageRequest, draws: Draws
    ) -> Iterator[Tensor]:
        denoise = self.denoiser(network, labels_B, request)

        def noise(step: int) -> Tensor:
            return draws.at(step).normal("noise", *x.shape[1:])

        match request.sampler:
            case "ddpm":
                return samplers.ddpm(denoise, x, grid, noise, variance=request.variance or "small")
            case "ddim":
                return samplers.ddim(denoise, x, grid, noise, eta=request.eta or 0.0)
            case "dpm++2m":
                return samplers.dpm_solver_2m(denoise, x, grid)
            case "dpm++2s":
                return samplers.dpm_solver_2s(denoise, x, grid)
            case "heun":
                return samplers.heun(denoise, x, grid, noise, churn=request.raised(self.process, len(grid) - 1))
            case "euler":
                return samplers.euler(denoise, x, grid)

    def showcase(self, validation: Dataset) -> ImageRequest:
        """A grid of images of the largest classes, and how the first of them came out of the noise."""
        if not self.conditional:
            return ImageRequest(num=32, columns=8, strip=8, individual=False)
        counts = self.assets.counts
        largest = sorted(sorted(range(len(counts)), key=lambda k: -counts[k])[:8])
        names = tuple(self.assets.classes[k] for k in largest)
        return ImageRequest(num=32, columns=8, strip=8, individual=False, label=names)
