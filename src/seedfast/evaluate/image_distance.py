"""Distances between two sets of images in a feature space: Fréchet distance, precision and recall."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from seedfast.errors import UserError

Features = Callable[[Tensor], Tensor]
"""uint8 images [B, C, S, S] → float features [B, F]."""

_BATCH = 256
"""Images whose features are computed together."""

_CHUNK = 512
"""Rows of a matrix of distances that are computed together."""


def raw_pixels(images_NCSS: Tensor) -> Tensor:
    """The pixels themselves, in [-1, 1], float64 [N, C·S·S]."""
    return images_NCSS.flatten(1).double() / 127.5 - 1


def features_of(images_NCSS: Tensor, features: Features, name: str) -> Tensor:
    """Features of all images, computed in batches, float64 [N, F]. name: of the features, for messages.

    Raises UserError unless there is a row of finite numbers for each image.
    """
    batches = []
    for images_BCSS in torch.split(images_NCSS, _BATCH):
        found_BF = features(images_BCSS)
        if not isinstance(found_BF, Tensor) or found_BF.ndim != 2 or len(found_BF) != len(images_BCSS):
            shape = list(found_BF.shape) if isinstance(found_BF, Tensor) else type(found_BF).__name__
            raise UserError(
                f"The features {name} must be numbers for each image, [{len(images_BCSS)}, F], not {shape}."
            )
        batches.append(found_BF.detach().double())
    features_NF = torch.cat(batches)
    if not bool(torch.isfinite(features_NF).all()):
        raise UserError(f"The features {name} are not finite for every image.")
    return features_NF


def frechet_distance(a_NF: Tensor, b_NF: Tensor) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½) of normal distributions fitted to two sets (Heusel et al. 2017).

    Computed in float64. Raises UserError for a set with fewer than two members.
    """
    if min(len(a_NF), len(b_NF)) < 2:
        raise UserError("A Fréchet distance needs at least two images in each set.")
    a_NF, b_NF = a_NF.double(), b_NF.double()
    shift = (a_NF.mean(dim=0) - b_NF.mean(dim=0)).square().sum()
    return float(shift + _bures(_factor(a_NF), _factor(b_NF)))


def _factor(x_NF: Tensor) -> Tensor:
    """A factor A of the covariance: AᵀA = Σ."""
    return (x_NF - x_NF.mean(dim=0)) / math.sqrt(len(x_NF) - 1)


def _bures(a: Tensor, b: Tensor) -> Tensor:
    """tr(Σ₁ + Σ₂ - 2 (Σ₁^½ Σ₂ Σ₁^½)^½): the trace of that root is the nuclear norm of A Bᵀ, for any factors A and B.

    This avoids a matrix square root, which is complex or fails for singular covariances.
    """
    # Reduced to triangular factors first: N may be much larger than F.
    small_a, small_b = (torch.linalg.qr(each, mode="r").R if len(each) > each.shape[1] else each for each in (a, b))
    root: Tensor = torch.linalg.svdvals(small_a @ small_b.T).sum()
    return a.square().sum() + b.square().sum() - 2 * root


def precision_recall(real_NF: Tensor, generated_NF: Tensor, *, nearest: int = 3) -> tuple[float, float]:
    """The part of the generated set within the real one, and of the real set within the generated one.

    A point is within a set if its distance to some member is at most that member's distance to its k-th nearest
    neighbour (Kynkäänniemi et al. 2019). Raises UserError for sets of k members or fewer.
    """
    if min(len(real_NF), len(generated_NF)) <= nearest:
        raise UserError(f"Precision and recall by {nearest} neighbours need more than {nearest} images in each set.")
    return _within(generated_NF, real_NF, nearest), _within(real_NF, generated_NF, nearest)


def _within(points_MF: Tensor, members_NF: Tensor, nearest: int) -> float:
    radii = [
        torch.cdist(chunk, members_NF).kthvalue(nearest + 1, dim=1).values  # the nearest of all is the member itself
        for chunk in torch.split(members_NF, _CHUNK)
    ]
    radius_N = torch.cat(radii)
    inside = [(torch.cdist(chunk, members_NF) <= radius_N).any(dim=1) for chunk in torch.split(points_MF, _CHUNK)]
    return float(torch.cat(inside).double().mean())
