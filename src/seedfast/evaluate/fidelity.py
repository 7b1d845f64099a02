"""Sample fidelity: how far generated images are from real ones, in stated features, with the floor between real halves.

A distance between finite sets is not zero even between two halves of the real images, and falls with their size: so
every number here comes with its sample counts, and beside that floor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast import keys
from seedfast.errors import UserError

Features = Callable[[Tensor], Tensor]
"""uint8 images [B, C, S, S] → float features [B, F]."""

ENOUGH = 2048
"""Below so many samples Fréchet distances of usual features are mostly bias."""


_TOGETHER = 256
"""Images whose features are computed together."""


def raw_pixels(images_NCSS: Tensor) -> Tensor:
    """The pixels themselves, in [-1, 1], float64 [N, C·S·S]."""
    return images_NCSS.flatten(1).double() / 127.5 - 1


def frechet_distance(a_NF: Tensor, b_NF: Tensor) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of the normal laws fitted to two sets (Heusel et al. 2017), in float64.

    Raises UserError where a set has fewer than two members.
    """
    if min(len(a_NF), len(b_NF)) < 2:
        raise UserError("A Fréchet distance needs at least two images on each side.")
    a_NF, b_NF = a_NF.double(), b_NF.double()
    shift = (a_NF.mean(dim=0) - b_NF.mean(dim=0)).square().sum()
    return float(shift + _bures(_factor(a_NF), _factor(b_NF)))


def _factor(x_NF: Tensor) -> Tensor:
    """Rows whose products sum to the covariance: AᵀA = Σ."""
    return (x_NF - x_NF.mean(dim=0)) / math.sqrt(len(x_NF) - 1)


def _bures(a: Tensor, b: Tensor) -> Tensor:
    """tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½): the trace of that root is the nuclear norm of A Bᵀ, whatever the factors.

    So no square root of a matrix is needed, which for singular covariances would be complex or fail.
    """
    # Reduced to triangular factors first: N may be much larger than F.
    small_a, small_b = (torch.linalg.qr(each, mode="r").R if len(each) > each.shape[1] else each for each in (a, b))
    root: Tensor = torch.linalg.svdvals(small_a @ small_b.T).sum()
    return a.square().sum() + b.square().sum() - 2 * root


def precision_recall(real_NF: Tensor, made_NF: Tensor, *, nearest: int = 3) -> tuple[float, float]:
    """Which part of the made lies among the real, and of the real among the made (Kynkäänniemi et al. 2019).

    A point is among a set if it is no farther from one of its members than that one's k-th nearest neighbour is.
    """
    if min(len(real_NF), len(made_NF)) <= nearest:
        raise UserError(f"Precision and recall by {nearest} neighbours need more than {nearest} images on each side.")
    return _within(made_NF, real_NF, nearest), _within(real_NF, made_NF, nearest)


def _within(points_MF: Tensor, members_NF: Tensor, nearest: int) -> float:
    radius_N = torch.cat(
        [torch.cdist(chunk, members_NF).kthvalue(nearest + 1, dim=1).values for chunk in torch.split(members_NF, 512)]
    )  # the nearest of all is the member itself
    inside = [(torch.cdist(chunk, members_NF) <= radius_N).any(dim=1) for chunk in torch.split(points_MF, 512)]
    return float(torch.cat(inside).double().mean())


@dataclass(frozen=True)
class Spread:
    """A number for each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """Their standard deviation; NaN of a single one."""
        if len(self.values) < 2:
            return math.nan
        return math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (len(self.values) - 1))


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How far made images are from real ones, with everything that is needed to compare it with another number.

    distance, precision, recall: a value for each seed of the samples. floor: the Fréchet distance between two halves of
    the real images, for as many ways of halving them.
    """

    features: str
    real: int
    made: int
    distance: Spread
    precision: Spread
    recall: Spread
    floor: Spread

    @property
    def warning(self) -> str | None:
        """What keeps these numbers from being taken at face value."""
        if min(self.real, self.made) >= ENOUGH:
            return None
        return (
            f"With fewer than {ENOUGH:,} images ({self.made:,} made, {self.real:,} real) a Fréchet distance is biased "
            "upwards: compare only with distances of the same counts, and with the floor."
        )


def _features_of(images_NCSS: Tensor, features: Features, name: str) -> Tensor:
    """Features of all images, some at a time."""
    parts = []
    for images_BCSS in torch.split(images_NCSS, _TOGETHER):
        found_BF = features(images_BCSS)
        if not isinstance(found_BF, Tensor) or found_BF.ndim != 2 or len(found_BF) != len(images_BCSS):
            shape = list(found_BF.shape) if isinstance(found_BF, Tensor) else type(found_BF).__name__
            raise UserError(
                f"The features {name} must be numbers for each image, [{len(images_BCSS)}, F], not {shape}."
            )
        parts.append(found_BF.detach().double())
    features_NF = torch.cat(parts)
    if not bool(torch.isfinite(features_NF).all()):
        raise UserError(f"The features {name} are not finite for every image.")
    return features_NF


def floor(features_NF: Tensor, seeds: Sequence[int]) -> Spread:
    """The Fréchet distance between two random halves of the real images, for each seed."""
    size = len(features_NF)
    values = []
    for seed in seeds:
        order = keys.permutation(keys.derive(seed, "fidelity/halves"), torch.zeros(1, dtype=torch.int64), size)[0]
        values.append(frechet_distance(features_NF[order[: size // 2]], features_NF[order[size // 2 :]]))
    return Spread(tuple(values))


def fidelity(
    real_NCSS: Tensor,
    made_by_seed: Sequence[Tensor],
    *,
    features: Features = raw_pixels,
    name: str = "raw pixels in [-1, 1]",
    seeds: Sequence[int],
) -> Fidelity:
    """Compare the images made with each seed with the real ones, both uint8 [N, C, S, S].

    Raises UserError if there are too few, or the features are no finite numbers for each image.
    """
    real_NF = _features_of(real_NCSS, features, name)
    made = [_features_of(images, features, name) for images in made_by_seed]
    both = [precision_recall(real_NF, each) for each in made]
    return Fidelity(
        features=name,
        real=len(real_NF),
        made=len(made[0]),
        distance=Spread(tuple(frechet_distance(real_NF, each) for each in made)),
        precision=Spread(tuple(p for p, _ in both)),
        recall=Spread(tuple(r for _, r in both)),
        floor=floor(real_NF, seeds),
    )
