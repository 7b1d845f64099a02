"""Keyed augmentation: the changes of an image are a function of its position in the stream, so resuming is exact."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from seedfast.keys import Draws
from seedfast.options import Between, check


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training images."""

    flip: bool = False
    """Mirror an image left to right with probability 1/2."""
    rotate: Annotated[float, Between(0, 180)] = 0.0
    """Rotate by up to this many degrees in either direction; corners repeat the edge."""
    jitter: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """Relative change of brightness, contrast and (for colour images) saturation."""

    def __post_init__(self) -> None:
        check(self, "objective.augment.")

    def __bool__(self) -> bool:
        """Whether images are changed at all."""
        return self.flip or self.rotate > 0 or self.jitter > 0


def augmented(x_BCSS: Tensor, options: Augment, draws: Draws) -> Tensor:
    """The images, in [-1, 1], each changed by its own keyed numbers."""
    if options.flip:
        x_BCSS = torch.where(draws.uniform("augment/flip", 1, 1, 1) < 0.5, x_BCSS.flip(-1), x_BCSS)
    if options.rotate:
        angle_B = (2 * draws.uniform("augment/rotate", 1)[:, 0] - 1) * math.radians(options.rotate)
        x_BCSS = _rotated(x_BCSS, angle_B)
    if options.jitter:
        x_BCSS = _jittered(x_BCSS, options.jitter, draws)
    return x_BCSS


def _rotated(x_BCSS: Tensor, angle_B: Tensor) -> Tensor:
    cos, sin, zero = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    matrix_B23 = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    coordinates = F.affine_grid(matrix_B23, list(x_BCSS.shape), align_corners=False)
    return F.grid_sample(x_BCSS, coordinates, padding_mode="border", align_corners=False)


def _jittered(x_BCSS: Tensor, strength: float, draws: Draws) -> Tensor:
    """Factors in 1 ± strength for brightness, contrast about the mean and saturation about the grey, in that order."""
    brightness, contrast, saturation = (1 + strength * (2 * draws.uniform("augment/jitter", 3, 1, 1, 1) - 1)).unbind(1)
    light = (x_BCSS + 1) / 2 * brightness
    mean = light.mean(dim=(1, 2, 3), keepdim=True)
    light = mean + contrast * (light - mean)
    if x_BCSS.shape[1] == 3:
        grey = (light * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
        light = grey + saturation * (light - grey)
    return light.clamp(0, 1) * 2 - 1
