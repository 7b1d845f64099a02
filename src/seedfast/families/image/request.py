"""What is asked of an image model."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seedfast.data.image.config import ImageAssets
from seedfast.data.image.sources import BROKEN, opened, pixels_of
from seedfast.diffusion.grids import Grid, Spacing
from seedfast.diffusion.guidance import clamped, dynamically_thresholded
from seedfast.errors import UserError
from seedfast.families.image.noise_process import Process


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What is wanted of an image model."""

    num: int = 16
    """Images in all; with labels, shared out among them (the first ones get what is left over)."""
    label: tuple[str, ...] = ()
    """Classes, by name. None: the trained null label, which stands for any class."""
    mix: bool = False
    """All classes, in the proportions of the training data, instead of named ones."""
    guidance: float = 1.0
    """Classifier-free guidance towards the label: 1 is the plain conditional model, more exaggerates."""
    sampler: Literal["ddpm", "ddim", "dpm++2m", "dpm++2s", "heun", "euler"] = "ddim"
    """dpm++2m and dpm++2s are DPM-Solver++(2M) and (2S), which takes its steps in pairs; heun asks the network twice a
    step."""
    steps: int | None = None
    """Steps of the sampler (default 50)."""
    spacing: Spacing | None = None
    """Which of the T times a discrete schedule steps on (default trailing)."""
    eta: float | None = None
    """For ddim: how much noise is put back, from 0 (the default) to 1 (as ddpm)."""
    variance: Literal["small", "large"] | None = None
    """For ddpm: of the noise that is put back, β̃ (small, the default) or β."""
    churn: float | None = None
    """For heun with the schedule edm: how much noise is put back in all steps together (S_churn of Karras et al. 2022,
    algorithm 2; default 0)."""
    threshold: Literal["clamp", "dynamic", "none"] = "clamp"
    """What is done to a predicted image that leaves [-1, 1]."""
    percentile: float | None = None
    """For the dynamic threshold: of |x0|, beyond which is cut (default 0.995)."""
    image: Path | None = None
    """Start from this picture, noised, instead of from noise."""
    noise: float | None = None
    """With an image: from which part of the noise levels to start, in (0, 1] (default 0.5)."""
    strip: int = 0
    """Frames of the way from noise to image to show beside each other, of the first eight images."""
    gif: bool = False
    """Show those frames as an animation (16 of them unless `strip` says how many)."""
    individual: bool = True
    """Write each image as a file of its own, besides the grid."""
    columns: int | None = None
    """Images in a row of the grid (default: about as many as there are rows)."""
    batch: int = 64
    """Images that are made together: bounds the memory, changes no image."""

    def __post_init__(self) -> None:
        for key in ("num", "batch", "steps", "columns"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"{key} must be at least 1, not {value}.")
        if self.strip < 0 or self.strip == 1:
            raise UserError(f"strip must be 0 (none) or at least 2 frames, not {self.strip}.")
        for key, has_effect, wanted in (
            ("eta", self.sampler == "ddim", "--sampler ddim"),
            ("variance", self.sampler == "ddpm", "--sampler ddpm"),
            ("churn", self.sampler == "heun", "--sampler heun"),
            ("percentile", self.threshold == "dynamic", "--threshold dynamic"),
            ("noise", self.image is not None, "--image"),
        ):
            if getattr(self, key) is not None and not has_effect:
                raise UserError(f"{key} has no effect without {wanted}: leave it out.")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise UserError(f"eta must lie in 0 … 1, not {self.eta}.")
        if self.churn is not None and not (math.isfinite(self.churn) and self.churn >= 0):
            raise UserError(f"churn must be 0 or more, not {self.churn}.")
        if self.percentile is not None and not 0 < self.percentile <= 1:
            raise UserError(f"percentile must lie in (0, 1], not {self.percentile}.")
        if self.noise is not None and not 0 < self.noise <= 1:
            raise UserError(f"noise must lie in (0, 1], not {self.noise}.")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise UserError(f"guidance must be 0 or more, not {self.guidance}.")
        if self.mix and self.label:
            raise UserError("mix takes all classes and label some: give one of them.")
        if self.guidance != 1 and not (self.label or self.mix):
            raise UserError(
                f"guidance {self.guidance} leads towards a class: name one with --label, or take all with --mix."
            )

    @property
    def count(self) -> int:
        """How many samples are asked for."""
        return self.num

    def labels(self, assets: ImageAssets, *, conditional: bool) -> list[int]:
        """The label of each image; without one, the null label. Raises UserError for a class that there is not."""
        classes = assets.classes
        if (self.label or self.mix) and not conditional:
            raise UserError("This model was trained without classes: leave out --label and --mix.")
        for name in self.label:
            if name not in classes:
                raise UserError(f'There is no class "{name}"; there are {", ".join(classes)}.')
        if self.mix:
            ends = torch.tensor(assets.counts, dtype=torch.float64).cumsum(0) / sum(assets.counts)
            middles = (torch.arange(self.num, dtype=torch.float64) + 0.5) / self.num
            return [int(label) for label in torch.searchsorted(ends, middles)]
        if not self.label:
            return [len(classes)] * self.num
        share, rest = divmod(self.num, len(self.label))
        return [classes.index(name) for i, name in enumerate(self.label) for _ in range(share + (i < rest))]

    def grid(self, process: Process) -> Grid:
        """The levels to step along; with an image, only those up to the wanted noise.

        The image is noised to the first of them, not to a level above or below it.
        """
        grid = process.grid(self.steps, self.spacing)
        if self.image is None:
            return grid
        wanted = 0.5 if self.noise is None else self.noise
        within = [level for level in grid[:-1] if float(process.progress(level)) <= wanted]
        if not within:
            least = float(process.progress(grid[-2]))
            raise UserError(
                f"noise {wanted:g} is less than the {least:.3g} from which the last of {len(grid) - 1} steps starts: "
                "take more steps, or more noise."
            )
        return within + grid[-1:]

    def raised(self, process: Process, steps: int) -> float:
        """By which part churn raises σ before each of so many steps. Raises UserError where there is no level above."""
        if not self.churn:
            return 0.0
        if process.schedule != "edm":
            raise UserError(
                f"churn raises the noise to levels between the times of the schedule {process.schedule}, which its "
                "network does not know; only edm has them all: leave it out."
            )
        return min(self.churn / steps, math.sqrt(2) - 1)

    def kept(self, steps: int) -> set[int]:
        """After which steps (0: before the first) a frame is kept."""
        frames = self.strip or (16 if self.gif else 0)
        return {round(i * steps / (frames - 1)) for i in range(frames)} if frames else set()

    def thresholded(self, x0: Tensor) -> Tensor:
        """x0 as the request wants it: one of the two, or neither."""
        match self.threshold:
            case "clamp":
                return clamped(x0)
            case "dynamic":
                return dynamically_thresholded(x0, 0.995 if self.percentile is None else self.percentile)
            case "none":
                return x0

    def pixels(self, assets: ImageAssets) -> Tensor:
        """The picture to start from, float32 [C, S, S] in [-1, 1]. Raises UserError if it cannot be read."""
        assert self.image is not None
        try:
            with opened(self.image) as image:
                values = pixels_of(image, assets.size, assets.channels)
        except BROKEN as error:
            raise UserError(f"{self.image} cannot be read as a picture: {error}.") from None
        return torch.from_numpy(values.copy()).float() / 127.5 - 1
