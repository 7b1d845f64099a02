"""Requests for images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from seedfast.data.image.dataset import ImageAssets
from seedfast.diffusion.grids import Grid, Spacing
from seedfast.diffusion.guidance import clamped, dynamically_thresholded
from seedfast.diffusion.inpainting import Known
from seedfast.errors import UserError
from seedfast.families.image.given import given_image, known_part
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.options import SET, AtLeast, Between, Formerly, OnlyWith, check

NO_CLASS = "none"
"""The word for the null label."""

GUIDANCE = 1.5
STEPS = {"dpm++2m": 25, "dpm++2s": 25, "heun": 25}
OTHER_STEPS = 50
"""The default decoding: DPM-Solver++(2M) in 25 steps, of classes as often as in the training data, guided: 50 network
evaluations for an image, 25 without classes.

The solver has a lower Fréchet distance than 50 steps of DDIM and 1000 of DDPM (`bench/digits_fidelity.py`), classes a
far lower one than the null label, and with guidance 0.99 instead of 0.96 of the images show their class, at a higher
distance: so images to look at are guided, and `fidelity` measures without (`bench/decoding.py`, docs/images.md)."""

PASSES = 10
"""Passes of inpainting over each step, unless a request names others."""

_TRACED_STEPS = 100

Solver = Literal["ddpm", "ddim", "dpm++2m", "dpm++2s", "heun", "euler"]


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """The images to generate, and the sampler that generates them."""

    num: Annotated[int, AtLeast(1)] = 16
    """Number of images (of rows, if each has several frames); with labels, divided evenly among them (the first labels
    get the remainder)."""
    label: tuple[str, ...] = ()
    """Classes, by name (default: of each image one of all classes, as often as in the training data). none is the
    trained null label, which stands for any class (unless a class has this name)."""
    all_classes: Annotated[bool, Formerly("mix")] = False
    """All classes sorted, in the exact proportions of the training data; also with --image, which has no class
    otherwise."""
    guidance: Annotated[float | None, AtLeast(0)] = None
    """Scale of classifier-free guidance: 1 is the conditional model, more strengthens the label's effect and evaluates
    the network twice a step (default 1.5 for classes; 1 for none, or for a null label that was not trained)."""
    sampler: Solver | None = None
    """dpm++2m (the default) and dpm++2s are DPM-Solver++(2M) and (2S), the latter in pairs of steps; heun evaluates the
    network twice a step; to inpaint, ddim is the default."""
    steps: Annotated[int | None, AtLeast(1)] = None
    """Steps of the sampler (default 25; 50 for ddpm, ddim and euler)."""
    spacing: Spacing | None = None
    """Choice of the timesteps of a discrete schedule (default trailing)."""
    eta: Annotated[float | None, Between(0, 1), OnlyWith(sampler="ddim")] = None
    """For ddim: amount of noise added in each step, from 0 (the default) to 1 (as ddpm)."""
    variance: Annotated[Literal["small", "large"] | None, OnlyWith(sampler="ddpm")] = None
    """For ddpm: variance of the noise added in each step, β̃ (small, the default) or β."""
    churn: Annotated[float | None, AtLeast(0), OnlyWith(sampler="heun")] = None
    """For heun with the schedule edm: amount of noise added over all steps (S_churn of Karras et al. 2022, algorithm
    2; default 0)."""
    threshold: Literal["clamp", "dynamic", "none"] = "clamp"
    """Treatment of predicted images with values outside [-1, 1]."""
    percentile: Annotated[float | None, Between(0, 1, open_low=True), OnlyWith(threshold="dynamic")] = None
    """For the dynamic threshold: percentile of |x0| at which values are clipped (default 0.995)."""
    image: Path | None = None
    """Start from this image with noise added, instead of from noise alone."""
    strength: Annotated[float | None, Between(0, 1, open_low=True), OnlyWith(image=SET), Formerly("noise")] = None
    """With an image: the noise level to start from, in (0, 1]; 1 is the noisiest (default 0.5)."""
    inpaint: Path | None = None
    """Fill a part of this image, and keep the other pixels as they are. It needs a mask."""
    mask: Annotated[Path | None, OnlyWith(inpaint=SET)] = None
    """To inpaint: an image as large, white where it is to be filled and black elsewhere."""
    resample: Annotated[int | None, AtLeast(1), OnlyWith(inpaint=SET)] = None
    """To inpaint: passes over each step, of which more fit the filled part better to the known one (RePaint, Lugmayr et
    al. 2022; default 10). Evaluations of the network grow by this factor."""
    to_seed: int | None = None
    """Interpolate from the images of --seed to those of this seed."""
    to_label: str | None = None
    """Interpolate from the classes of --label to this class."""
    frames: Annotated[int | None, AtLeast(2)] = None
    """To interpolate: images from one end to the other, both included, in a row of the grid (default 8)."""
    strip: Annotated[int, AtLeast(0)] = 0
    """Frames from noise to image, shown side by side for the first eight images."""
    gif: bool = False
    """Write these frames as an animation (16 frames unless `strip` is set), or those of an interpolation."""
    trace: Annotated[bool, tyro.conf.Suppress] = False
    """Keep the images on their way from noise, as `films` of the samples: after every step, or those of the strip."""
    individual: bool = True
    """Write each image as a file of its own, besides the grid."""
    columns: Annotated[int | None, AtLeast(1)] = None
    """Columns of the grid (default: about as many as rows)."""
    batch: Annotated[int, AtLeast(1)] = 64
    """Images generated together: limits the memory, changes no image."""

    def __post_init__(self) -> None:
        check(self)
        for key in ("guidance", "churn"):
            if (value := getattr(self, key)) is not None and not math.isfinite(value):
                raise UserError(f"{key} must be a finite number, not {value}.")
        if self.strip == 1:
            raise UserError(f"strip must be 0 (none) or at least 2 frames, not {self.strip}.")
        if self.inpaint is not None:
            self._check_inpainting()
        if self.frames is not None and not self.interpolates:
            raise UserError(f"frames ({self.frames}) has no effect without to_seed or to_label: leave it out.")
        if self.interpolates and self.strip:
            raise UserError("strip shows the way from noise to image, and to_seed and to_label that between images.")
        if self.all_classes and self.label:
            raise UserError("all_classes generates every class and label only some: use one of them.")

    def _check_inpainting(self) -> None:
        if self.mask is None:
            raise UserError(f"inpaint ({self.inpaint}) needs a mask, white where the image is to be filled.")
        if self.image is not None:
            raise UserError("image starts from an image and inpaint fills a part of one: use one of them.")
        if self.sampler in ("dpm++2m", "dpm++2s"):
            raise UserError(
                f"inpaint takes each step several times, and the sampler {self.sampler} builds on the step before: use "
                "ddim, ddpm, euler or heun."
            )

    @property
    def count(self) -> int:
        """Number of images, or of rows of an interpolation."""
        return self.num

    @property
    def solver(self) -> Solver:
        """The sampler, also where none is named."""
        return self.sampler or ("dpm++2m" if self.inpaint is None else "ddim")

    @property
    def passes(self) -> int:
        """Passes over each step: one, or several to inpaint."""
        return 1 if self.inpaint is None else self.resample or PASSES

    @property
    def interpolates(self) -> bool:
        """Whether each image is a row of frames between two ends."""
        return self.to_seed is not None or self.to_label is not None

    @property
    def starts_from_noise(self) -> bool:
        """Whether the images are samples of the model: from noise alone, one by one."""
        return self.image is None and self.inpaint is None and not self.interpolates

    @property
    def weights(self) -> list[float]:
        """The place of each frame on its way, from 0 to 1."""
        frames = self.frames or 8
        return [frame / (frames - 1) for frame in range(frames)] if self.interpolates else [0.0]

    def labels(self, assets: ImageAssets, *, conditional: bool) -> list[int]:
        """The label of each image, of which K is the null label: that of a model without classes, and of an image to
        start from, unless classes are requested.

        Raises UserError for an unknown class, and for any class or guidance if the model is not conditional.
        """
        if (self.label or self.all_classes or self.to_label) and not conditional:
            raise UserError("This model was trained without classes: leave out --label, --to-label and --all-classes.")
        if self.all_classes:
            return _in_proportion(assets.counts, self.num)
        if conditional and not self.label and self.image is None and self.inpaint is None:
            return _one_by_one(assets.counts, self.num)
        wanted = [_label(name, assets.classes) for name in self.label or (NO_CLASS,)]
        if self.guidance not in (None, 1) and set(wanted) == {len(assets.classes)}:
            raise UserError(
                f"guidance {self.guidance} needs a class besides the label {NO_CLASS}: name one with --label."
                if conditional
                else f"guidance {self.guidance} needs classes, and this model was trained without: leave it out."
            )
        each, remainder = divmod(self.num, len(wanted))
        return [label for i, label in enumerate(wanted) for _ in range(each + (i < remainder))]

    def step_count(self, process: NoiseProcess) -> int:
        """The number of steps: by default that of the sampler, at most the timesteps of the schedule."""
        if self.steps is not None:
            return self.steps
        usual = STEPS.get(self.solver, OTHER_STEPS)
        return min(usual, len(process.table)) if process.is_discrete else usual

    def to_labels(self, labels: Sequence[int], classes: Sequence[str], *, is_guided: bool) -> list[int]:
        """The label that each label of an interpolation goes to, the null label included.

        The null label of guidance stays what it is. Raises UserError for an unknown class, or one that changes nothing.
        """
        null = len(classes)
        if self.to_label is None:
            return list(range(null + 1))
        target = _label(self.to_label, classes)
        if set(labels) == {target}:
            raise UserError(f"to_label {self.to_label} is the label of every image: name another with --label.")
        if is_guided and null in labels:
            raise UserError(f"With guidance, to_label needs a class to begin with: leave out the label {NO_CLASS}.")
        return [target] * null + [null if is_guided else target]

    def grid(self, process: NoiseProcess) -> Grid:
        """The sampling grid; with an image, only its levels up to the requested strength.

        The image is noised to exactly the first of these levels.
        """
        grid = process.grid(self.step_count(process), self.spacing)
        if self.image is None:
            return grid
        strength = 0.5 if self.strength is None else self.strength
        within = [level for level in grid[:-1] if float(process.strength(level)) <= strength]
        if not within:
            least = float(process.strength(grid[-2]))
            raise UserError(
                f"strength {strength:g} is less than the {least:.3g} from which the last of {len(grid) - 1} steps "
                "starts: use more steps, or a larger strength."
            )
        return within + grid[-1:]

    def churn_per_step(self, process: NoiseProcess, steps: int) -> float:
        """Relative increase of σ before each step: min(S_churn / N, √2 − 1).

        Raises UserError for a schedule whose network does not know the levels in between.
        """
        if not self.churn:
            return 0.0
        if process.schedule != "edm":
            raise UserError(
                f"churn raises the noise to levels between the timesteps of the schedule {process.schedule}, for which "
                "its network was not trained; it works with the schedule edm only: leave it out."
            )
        return min(self.churn / steps, math.sqrt(2) - 1)

    def frame_steps(self, steps: int) -> set[int]:
        """The steps after which a frame is stored; 0 is the noise before the first step."""
        frames = self.strip or (16 if self.gif else min(steps, _TRACED_STEPS) + 1 if self.trace else 0)
        return {round(i * steps / (frames - 1)) for i in range(frames)} if frames else set()

    def thresholded(self, x0: Tensor) -> Tensor:
        """x0 [B, …] with the requested treatment of values outside [-1, 1]."""
        match self.threshold:
            case "clamp":
                return clamped(x0)
            case "dynamic":
                return dynamically_thresholded(x0, 0.995 if self.percentile is None else self.percentile)
            case "none":
                return x0

    def start_image(self, assets: ImageAssets) -> Tensor:
        """The image to start from, float32 [C, S, S] in [-1, 1]. Raises UserError if it is not readable."""
        assert self.image is not None
        return given_image(self.image, assets)

    def known(self, assets: ImageAssets) -> Known | None:
        """The part of an image that inpainting keeps. Raises UserError for images that are not readable or do not fit.

        None without inpainting.
        """
        if self.inpaint is None or self.mask is None:
            return None
        return known_part(self.inpaint, self.mask, assets)


_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def _label(name: str, classes: Sequence[str]) -> int:
    """The label of a class; the null label for "none" in any case, unless a class has this name.

    Raises UserError for an unknown class.
    """
    if name in classes:
        return classes.index(name)
    if name.lower() == NO_CLASS:
        return len(classes)
    raise UserError(f'There is no class "{name}"; there are {", ".join(classes)}, and {NO_CLASS} for any class.')


def _in_proportion(counts: Sequence[int], num: int) -> list[int]:
    """`num` labels in increasing order, in the proportions of these counts."""
    ends_K = torch.tensor(counts, dtype=torch.float64).cumsum(0) / sum(counts)
    centres_N = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    return [int(label) for label in torch.searchsorted(ends_K, centres_N)]


def _one_by_one(counts: Sequence[int], num: int) -> list[int]:
    """A label for each of `num` images, which does not depend on their number, nearly in the proportions of the counts.

    The quantiles are multiples of the golden ratio modulo 1: any number of them is spread evenly (Weyl's sequence).
    """
    ends_K = torch.tensor(counts, dtype=torch.float64).cumsum(0) / sum(counts)
    quantiles_N = (0.5 + torch.arange(num, dtype=torch.float64) * _GOLDEN_RATIO) % 1
    return [min(int(label), len(counts) - 1) for label in torch.searchsorted(ends_K, quantiles_N, right=True)]
