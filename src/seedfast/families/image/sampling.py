"""Sampling of image diffusion: from noise, or from an image with noise added, to images.

Shapes: B batch, C channels, S height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from seedfast.console import Bar
from seedfast.data.dataset import Dataset
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid
from seedfast.diffusion.guidance import guided
from seedfast.diffusion.levels import NoiseLevel, add_noise
from seedfast.diffusion.parameterisation import input_std, to_x0
from seedfast.errors import UserError
from seedfast.families.generator import Generator, State
from seedfast.families.image.conditioning import ClassConditioning
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import GUIDANCE, ImageRequest
from seedfast.families.image.samples import TRACED, ImageSamples, to_uint8
from seedfast.keys import Draws


@dataclass(frozen=True)
class ImageGenerator(Generator[ImageRequest]):
    """Generates images by class, by any sampler of `seedfast.diffusion.samplers`."""

    process: NoiseProcess
    conditioning: ClassConditioning

    Request = ImageRequest

    def demo(self, validation: Dataset) -> ImageRequest:
        """A grid of images of the eight largest classes, and the denoising of the first of them."""
        request = ImageRequest(num=16, columns=8, strip=8, individual=False)
        if not self.conditioning.conditional:
            return request
        assets = self.conditioning.assets
        largest = sorted(sorted(range(len(assets.counts)), key=lambda k: -assets.counts[k])[:8])
        return replace(request, label=tuple(assets.classes[k] for k in largest))

    def with_training_classes(self, request: ImageRequest) -> ImageRequest:
        """A request for the distribution of the training data: its classes in their proportions, unguided, unless it
        names classes or a guidance itself. Guidance makes classes clearer and moves away from the data.

        Raises UserError if the model lacks the classes that it names.
        """
        if self.conditioning.conditional and not request.label:
            request = replace(request, all_classes=True)
        if request.guidance is None:
            request = replace(request, guidance=1.0)
        self.labels(request)
        return request

    def labels(self, request: ImageRequest) -> list[int]:
        """The label of each image. Raises UserError for labels that the network was not trained with."""
        conditioning = self.conditioning
        labels = request.labels(conditioning.assets, conditional=conditioning.conditional)
        needs_null = conditioning.null_label in labels or request.guidance not in (None, 1)
        if conditioning.conditional and conditioning.dropout_prob == 0 and needs_null:
            raise UserError(
                "This model was trained with objective.class_dropout_prob=0, so its null label was never trained: name "
                "a class with --label (or use --all-classes), and leave --guidance at 1."
            )
        return labels

    def guidance(self, request: ImageRequest) -> float:
        """The scale of guidance: the default for classes, if the null label that it needs was trained."""
        if request.guidance is not None:
            return request.guidance
        guides = self.conditioning.conditional and self.conditioning.dropout_prob > 0
        has_class = set(self.labels(request)) != {self.conditioning.null_label}
        return GUIDANCE if guides and has_class else 1.0

    def decoding(self, request: ImageRequest) -> str:
        """How images are decoded, in words, with the number of network evaluations for each."""
        scale, steps = self.guidance(request), len(request.grid(self.process)) - 1
        evaluations = (2 * steps - 1 if request.sampler == "heun" else steps) * (1 if scale == 1 else 2)
        options = {"η": request.eta, "variance": request.variance, "churn": request.churn, "spacing": request.spacing}
        given = [f"{name} {value}" for name, value in options.items() if value is not None]
        threshold = [] if request.threshold == "clamp" else [f"threshold {request.threshold}"]
        way = [f"{request.sampler} in {steps} steps", *given, *threshold, f"guidance {scale:g}"]
        return ", ".join([*way, f"{evaluations} network evaluations for an image"])

    @torch.no_grad()
    def generate(self, network: nn.Module, request: ImageRequest, draws: Draws, state: State) -> ImageSamples:
        """Images in batches of `request.batch`; an image does not depend on the others of its batch."""
        labels = self.labels(request)
        grid = request.grid(self.process)
        frame_steps = request.frame_steps(len(grid) - 1)
        batches: list[Tensor] = []
        frames: list[list[Tensor]] = []
        starts = range(0, request.num, request.batch)
        with Bar("Sampling", len(starts) * len(grid)) as bar:
            for start in starts:
                part = replace(draws, positions_B=draws.positions_B[start : start + request.batch])
                labels_B = torch.tensor(labels[start : start + request.batch], device=part.positions_B.device)
                traced = []
                first = self.initial(grid, request, part)
                for step, x in enumerate(chain([first], self.steps(network, first, grid, labels_B, request, part))):
                    bar.advance(1)
                    if step in frame_steps and start < TRACED:
                        traced.append(to_uint8(x[: TRACED - start]))
                batches.append(to_uint8(x))
                if traced:
                    frames.append(traced)
        return ImageSamples.from_batches(batches, frames, labels, self.conditioning.assets.classes, request)

    def initial(self, grid: Grid, request: ImageRequest, draws: Draws) -> Tensor:
        """x at the first level of the grid, float32 [B, C, S, S]."""
        assets = self.conditioning.assets
        noise = draws.normal("start", assets.channels, assets.size, assets.size)
        if request.image is None:
            return noise * input_std(grid[0], self.process.scaling_std)
        x0 = request.start_image(assets).to(noise.device).expand_as(noise)
        return add_noise(x0, noise, grid[0])

    def steps(
        self, network: nn.Module, x: Tensor, grid: Grid, labels_B: Tensor, request: ImageRequest, draws: Draws
    ) -> Iterator[Tensor]:
        """x after each step of the sampler, starting from x at the first level of the grid."""
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
                churn = request.churn_per_step(self.process, len(grid) - 1)
                return samplers.heun(denoise, x, grid, noise, churn=churn)
            case "euler":
                return samplers.euler(denoise, x, grid)

    def denoiser(self, network: nn.Module, labels_B: Tensor, request: ImageRequest) -> samplers.Denoise:
        """(x, level) → x0, guided towards the labels and thresholded as requested.

        Images without a class have the trained null label (docs/identities.md#guidance).
        """
        null_B = torch.full_like(labels_B, self.conditioning.null_label)
        scale = self.guidance(request)

        def denoise(x: Tensor, level: NoiseLevel) -> Tensor:
            if scale == 1:
                return request.thresholded(self._predict_x0(network, x, level, labels_B))
            both = self._predict_x0(network, torch.cat([x, x]), level, torch.cat([null_B, labels_B]))
            unconditional, conditional = both.chunk(2)
            return request.thresholded(guided(unconditional, conditional, scale))

        return denoise

    def _predict_x0(self, network: nn.Module, x: Tensor, level: NoiseLevel, labels_B: Tensor) -> Tensor:
        t_cond_B = self.process.t_cond(level).float().to(x.device).expand(len(x))
        inputs = x / input_std(level, self.process.scaling_std)
        output = network(inputs, t_cond_B, self.conditioning.network_input(labels_B)).float()
        return to_x0(self.process.prediction, output, x, level, self.process.scaling_std)
