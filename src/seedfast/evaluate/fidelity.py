"""Sample fidelity: the distance of generated images from real ones, next to the distance between two real halves.

A distance between finite sets is not zero even between two halves of the real images, and it falls with their size.
Every number here therefore comes with its sample counts, and next to that noise floor.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.image.dataset import ImageAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation
from seedfast.evaluate.image_distance import Features, features_of, frechet_distance, precision_recall, raw_pixels
from seedfast.evaluate.trained import Trained
from seedfast.families.image.request import NO_CLASS, ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.families.image.sampling import ImageGenerator
from seedfast.user_code import own_function

ENOUGH = 2048
"""With fewer samples than this, Fréchet distances of usual features are mostly bias."""


@dataclass(frozen=True)
class Spread:
    """A number for each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """The standard deviation over seeds; NaN for a single one."""
        if len(self.values) < 2:
            return math.nan
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))


@dataclass(frozen=True, kw_only=True)
class FidelityResult:
    """The distance of generated images from real ones, with everything that a comparison with other numbers needs.

    decoding: how the images were generated, in words. features: their name. reference: the real images, in words. real,
    generated: the numbers of images.
    distance, precision, recall: a value for each seed of the samples. floor: the Fréchet distance between two halves
    of the real images, for as many random halves.
    """

    features: str
    decoding: str
    reference: str
    real: int
    generated: int
    distance: Spread
    precision: Spread
    recall: Spread
    floor: Spread

    @property
    def warning(self) -> str | None:
        """A warning about the bias of small sets, None for large ones."""
        if min(self.real, self.generated) >= ENOUGH:
            return None
        return (
            f"With fewer than {ENOUGH:,} images ({self.generated:,} made, {self.real:,} real) a Fréchet distance "
            "is biased upwards: compare only with distances of the same counts, and with the floor."
        )

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        spreads = {name: asdict(getattr(self, name)) for name in ("distance", "precision", "recall", "floor")}
        counts = {"features": self.features, "decoding": self.decoding, "real": self.real, "made": self.generated}
        return {**counts, **spreads, "warning": self.warning}

    def table(self) -> list[str]:
        """As lines for a terminal."""
        lines = [
            f"{self.generated:,} images for each of {len(self.distance.values)} seeds, "
            f"against {self.real:,} of {self.reference}",
            f"features             {self.features}",
            *([f"decoding             {self.decoding}"] if self.decoding else []),
        ]
        for title in ("distance", "floor", "precision", "recall"):
            spread: Spread = getattr(self, title)
            deviation = f" ± {spread.std:.4f}" if len(spread.values) > 1 else ""
            lines.append(f"{'Fréchet distance' if title == 'distance' else title:<20} {spread.mean:.4f}{deviation}")
        return lines + ([self.warning] if self.warning else [])


def floor(features_NF: Tensor, seeds: Sequence[int]) -> Spread:
    """The Fréchet distance between two random halves of the real images, for each seed."""
    size = len(features_NF)
    values = []
    for seed in seeds:
        order = keys.permutation(keys.derive(seed, "fidelity/halves"), torch.zeros(1, dtype=torch.int64), size)[0]
        values.append(frechet_distance(features_NF[order[: size // 2]], features_NF[order[size // 2 :]]))
    return Spread(tuple(values))


def compare(
    real_NCSS: Tensor,
    generated_by_seed: Sequence[Tensor],
    *,
    features: Features = raw_pixels,
    name: str = "raw pixels in [-1, 1]",
    decoding: str = "",
    reference: str = "real images",
    seeds: Sequence[int],
) -> FidelityResult:
    """Compare the images generated with each seed with the real ones, all uint8 [N, C, S, S].

    Raises UserError for too few images, or features that are not finite numbers for each image.
    """
    real_NF = features_of(real_NCSS, features, name)
    generated = [features_of(images, features, name) for images in generated_by_seed]
    both = [precision_recall(real_NF, each) for each in generated]
    return FidelityResult(
        features=name,
        decoding=decoding,
        reference=reference,
        real=len(real_NF),
        generated=len(generated[0]),
        distance=Spread(tuple(frechet_distance(real_NF, each) for each in generated)),
        precision=Spread(tuple(p for p, _ in both)),
        recall=Spread(tuple(r for _, r in both)),
        floor=floor(real_NF, seeds),
    )


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Fréchet distance, precision and recall of generated images, next to the distance between two real halves.

    With classes, as many images of each class are generated as the training data have; with labels, equally many of
    each, to be compared with the real images of these classes.
    """

    name: ClassVar[str] = "fidelity"

    request: ImageRequest = field(default_factory=lambda: ImageRequest(num=2048, batch=256))
    """The images to generate, and the sampler."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of the samples; several give a standard deviation."""
    against: Literal["train", "validation"] = "train"
    """The split of the real images."""
    features: str | None = None
    """inception:FILE, those of the published FID with the weights in a file; path/to/file.py:function that maps images
    (uint8 [B, C, S, S]) to features [B, F]; or a vision model of transformers, a folder or a name on the hub (default:
    raw pixels)."""

    def __post_init__(self) -> None:
        if not self.request.starts_from_noise:
            raise UserError(
                "Fidelity compares images generated from noise: leave --image out, and --inpaint, --to-seed and "
                "--to-label."
            )

    def fits(self, model: Trained) -> str | None:
        """Image models."""
        is_image = isinstance(model.assets, ImageAssets)
        return None if is_image else f"A model of {model.run.recipe} generates no images."

    def __call__(self, model: Trained) -> FidelityResult:
        """Generate and compare. Raises UserError for a model or a label that does not fit, or changed data."""
        if reason := self.fits(model):
            raise UserError(reason)
        generator = cast("ImageGenerator", model.generator)
        features, name = self._features(model.distributed.device)  # first of all, because sampling takes minutes
        request = generator.with_training_classes(self.request)
        classes = generator.conditioning.assets.classes
        if not set(self.request.label) <= set(classes):
            raise UserError(
                f"Fidelity compares the images of classes, so --label {NO_CLASS} has no images: leave it out."
            )
        real_NCSS = self._real_images(model, classes)
        return compare(
            real_NCSS,
            [_images(model, request, seed) for seed in self.seeds],
            features=features,
            name=name,
            decoding=model.decoding(request),
            reference=self.against + (f" ({', '.join(self.request.label)})" if self.request.label else ""),
            seeds=self.seeds,
        )

    def _features(self, device: torch.device) -> tuple[Features, str]:
        """The features and their name; a network computes on this device."""
        if self.features is None:
            return raw_pixels, "raw pixels in [-1, 1]"
        from seedfast.evaluate.image_features import INCEPTION, inception, pretrained

        if self.features.startswith(INCEPTION):
            return inception(Path(self.features.removeprefix(INCEPTION)).expanduser(), device)
        if ":" in self.features:
            return own_function(self.features)[0], self.features
        return pretrained(self.features, device), self.features

    def _real_images(self, model: Trained, classes: Sequence[str]) -> Tensor:
        """The real images of the requested classes, or of all, uint8 [N, C, S, S]."""
        if self.against == "validation" and (reason := no_validation(model)):
            raise UserError(reason)
        split = model.corpus.train if self.against == "train" else model.corpus.validation
        batch = split.batch(list(range(len(split))))
        requested_K = torch.tensor([not self.request.label or name in self.request.label for name in classes])
        return batch["pixels"][requested_K[batch["labels"]]]


def _images(model: Trained, request: ImageRequest, seed: int) -> Tensor:
    samples = model.sample(request, seed=seed)
    assert isinstance(samples, ImageSamples)
    return samples.images_NCSS
