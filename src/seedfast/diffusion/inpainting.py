"""Inpainting: sampling the unknown part of x0 given the rest, with a denoiser that was trained for neither part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from seedfast.diffusion.grids import Grid
from seedfast.diffusion.levels import NoiseLevel, add_noise
from seedfast.diffusion.samplers import Noise, step_variance

Sampler = Callable[[Tensor, Grid, Noise], Iterator[Tensor]]
"""(x, grid, noise) → x after each step of the grid."""

NoiseOf = Callable[[str, int, int], Tensor]
"""(stream, step, pass) → standard normal noise of x's shape. The streams are "noise", "known" and "back"."""


@dataclass(frozen=True)
class Known:
    """The part of an example that is given.

    x0: the example, [...]. unknown: bool, of a shape that broadcasts to it; true where it is to be filled.
    """

    x0: Tensor
    unknown: Tensor

    def replaced(self, x: Tensor, level: NoiseLevel, noise: Tensor) -> Tensor:
        """x [B, …] with its known part replaced by that of the example, noised to the level; exact without noise."""
        known = self.x0 if level.s == 0 else add_noise(self.x0, noise, level)
        return torch.where(self.unknown, x, known)


def renoised(x: Tensor, end: NoiseLevel, start: NoiseLevel, noise: Tensor) -> Tensor:
    """x at the cleaner level `end`, noised to the level `start`: a draw from q(x_start | x_end)."""
    return start.a / end.a * x + step_variance(start, end).sqrt() * noise


def repaint(sampler: Sampler, x: Tensor, grid: Grid, known: Known, noise: NoiseOf, *, passes: int) -> Iterator[Tensor]:
    """x after each step, with resampling (RePaint, Lugmayr et al. 2022, algorithm 1, on any grid and schedule).

    After each step the known part is replaced by the example at the same noise level. One pass alone (replacement
    conditioning, Song et al. 2021) ignores what the unknown part has to fit to: both are noised independently.
    Therefore each step but the last is repeated: x is noised back to the level before and the step is taken again. Many
    passes in many steps approach a draw from the conditional distribution; finitely many are an approximation.

    sampler: is called for one step at a time, so that it can have no history. passes: at least 1; the number of times
    each step is taken.
    """
    for step, (start, end) in enumerate(pairwise(grid)):
        for again in range(passes if end.s > 0 else 1):
            if again:
                x = renoised(x, end, start, noise("back", step, again))
            (x,) = sampler(x, [start, end], _of_step(noise, step, again))
            x = known.replaced(x, end, noise("known", step, again))
        yield x


def _of_step(noise: NoiseOf, step: int, again: int) -> Noise:
    """The sampler's own noise in one pass over a step."""
    return lambda _: noise("noise", step, again)
