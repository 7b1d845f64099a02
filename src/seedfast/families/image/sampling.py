"""Sampling of image diffusion: from noise, or from an image with noise added, to images.

Shapes: B batch, C channels, S height and width.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from seedfast.console import Bar
from seedfast.data.dataset import Dataset
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid
from seedfast.diffusion.guidance import guided
from seedfast.diffusion.inpainting import Known, Sampler, repaint
from seedfast.diffusion.levels import NoiseLevel, add_noise, match_dims
from seedfast.diffusion.parameterisation import input_std, to_x0
from seedfast.errors import UserError
from seedfast.families.generator import Generator, State
from seedfast.families.image.conditioning import ClassConditioning
from seedfast.families.image.interpolation import DrawsBetween, mixed_labels
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import GUIDANCE, ImageRequest
from seedfast.families.image.samples import TRACED, ImageSamples, to_uint8
from seedfast.keys import Draws
from seedfast.models.network import Network


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
        null, labels = self.conditioning.null_label, set(self.labels(request))
        has_class = null not in labels if request.to_label else labels != {null}
        return GUIDANCE if guides and has_class else 1.0

    def decoding(self, request: ImageRequest) -> str:
        """How images are decoded, in words, with the number of network evaluations for each."""
        scale, steps = self.guidance(request), len(request.grid(self.process)) - 1
        options = {"η": request.eta, "variance": request.variance, "churn": request.churn, "spacing": request.spacing}
        given = [f"{name} {value}" for name, value in options.items() if value is not None]
        threshold = [] if request.threshold == "clamp" else [f"threshold {request.threshold}"]
        way = [f"{request.solver} in {steps} steps", *given, *threshold, f"guidance {scale:g}"]
        return ", ".join([*way, f"{self.evaluations(request)} network evaluations for an image"])

    def evaluations(self, request: ImageRequest, done: int | None = None) -> int:
        """The network evaluations for an image, or of its first `done` steps.

        One for each step and pass; Heun's method has two, but for the last step, and guidance doubles them.
        """
        steps = len(request.grid(self.process)) - 1
        done = steps if done is None else done
        of_solver = min(2 * done, 2 * steps - 1) if request.solver == "heun" else done
        return request.passes * of_solver * (1 if self.guidance(request) == 1 else 2)

    @torch.no_grad()
    def generate(self, network: nn.Module, request: ImageRequest, draws: Draws, state: State) -> ImageSamples:
        """Images in batches of `request.batch`; an image does not depend on the others of its batch.

        Each frame of an interpolation is generated as images without one are, so that its ends are these images.
        """
        labels = self.labels(request)
        classes, is_guided = self.conditioning.assets.classes, self.guidance(request) != 1
        to_labels = request.to_labels(labels, classes, is_guided=is_guided)
        if request.to_seed == draws.seed:
            raise UserError(f"to_seed ({request.to_seed}) is the seed of the images themselves: name another.")
        grid = request.grid(self.process)
        done = []
        batches = math.ceil(request.num / request.batch)
        with Bar("Sampling", batches * len(grid) * len(request.weights)) as bar:
            for weight in request.weights:
                with self._mixed(network, request, to_labels, weight):
                    done.append(self._images(network, request, grid, labels, _between(draws, request, weight), bar))
        frames, steps = done[0][1], len(grid) - 1
        way = tuple((step, self.evaluations(request, step)) for step in sorted(request.frame_steps(steps)))
        return ImageSamples.of([images for images, _ in done], frames, way, labels, to_labels, classes, request)

    def _mixed(
        self, network: nn.Module, request: ImageRequest, to_labels: list[int], weight: float
    ) -> AbstractContextManager[None]:
        """A context in which labels are interpolated, as requested."""
        if request.to_label is None:
            return nullcontext()
        embedding = network.label_embedding if isinstance(network, Network) else None
        assert embedding is not None, "a conditional network has an embedding of labels"
        return mixed_labels(embedding, torch.tensor(to_labels, device=embedding.weight.device), weight)

    def _images(
        self, network: nn.Module, request: ImageRequest, grid: Grid, labels: list[int], draws: Draws, bar: Bar
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Images, uint8 [N, C, S, S], and the frames of the first ones on their way from noise, by batch."""
        frame_steps = request.frame_steps(len(grid) - 1)
        batches: list[Tensor] = []
        frames: list[list[Tensor]] = []
        for start in range(0, request.num, request.batch):
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
        return torch.cat(batches), frames

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
        sampler = self._sampler(self.denoiser(network, labels_B, request), request, len(grid) - 1)
        known = request.known(self.conditioning.assets)
        if known is None:
            return sampler(x, grid, lambda step: draws.at(step).normal("noise", *x.shape[1:]))

        def noise(stream: str, step: int, again: int) -> Tensor:
            own = draws.at(step) if again == 0 else draws.at(step).at(again)
            return own.normal(stream, *x.shape[1:])

        known = Known(known.x0.to(x.device), known.unknown.to(x.device))
        first = known.replaced(x, grid[0], draws.normal("known", *x.shape[1:]))
        return repaint(sampler, first, grid, known, noise, passes=request.passes)

    def _sampler(self, denoise: samplers.Denoise, request: ImageRequest, steps: int) -> Sampler:
        match request.solver:
            case "ddpm":
                return partial(samplers.ddpm, denoise, variance=request.variance or "small")
            case "ddim":
                return partial(samplers.ddim, denoise, eta=request.eta or 0.0)
            case "dpm++2m":
                return lambda x, grid, _: samplers.dpm_solver_2m(denoise, x, grid)
            case "dpm++2s":
                return lambda x, grid, _: samplers.dpm_solver_2s(denoise, x, grid)
            case "heun":
                return partial(samplers.heun, denoise, churn=request.churn_per_step(self.process, steps))
            case "euler":
                return lambda x, grid, _: samplers.euler(denoise, x, grid)

    def denoiser(self, network: nn.Module, labels_B: Tensor, request: ImageRequest) -> samplers.Denoise:
        """(x, level) → x0, guided towards the labels and thresholded as requested. A level is of all images or of each.

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
        inputs = x / match_dims(input_std(level, self.process.scaling_std), x)
        output = network(inputs, t_cond_B, self.conditioning.network_input(labels_B)).float()
        return to_x0(self.process.prediction, output, x, level, self.process.scaling_std)


def _between(draws: Draws, request: ImageRequest, weight: float) -> Draws:
    """The randomness of a frame of an interpolation."""
    if request.to_seed is None:
        return draws
    own = {f.name: getattr(draws, f.name) for f in fields(Draws)}
    return DrawsBetween(**own, to=request.to_seed, weight=weight)
