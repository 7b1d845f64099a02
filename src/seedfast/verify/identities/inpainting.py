"""Inpainting against the conditional distribution of correlated normal data, which is known in closed form.

See docs/identities.md#inpainting.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from seedfast import keys
from seedfast.diffusion import inpainting as installed
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Grid, continuous_grid, even_times, karras_sigmas, table_grid, timesteps
from seedfast.diffusion.inpainting import Known
from seedfast.diffusion.levels import NoiseLevel, flow, variance_exploding
from seedfast.diffusion.schedules import table
from seedfast.verify.identities.check import Check

Repaint = Callable[..., Iterator[Tensor]]

_SAMPLES = 1000
_STEPS = 30
_PASSES = 10
_TOLERANCE = 0.2
_MEAN = torch.tensor([0.5, -0.5, 0.2, 0.0], dtype=torch.float64)
_COVARIANCE = torch.tensor(
    [[1.0, 0.8, 0.3, 0.5], [0.8, 1.0, 0.4, 0.3], [0.3, 0.4, 1.0, 0.6], [0.5, 0.3, 0.6, 1.0]], dtype=torch.float64
)
_UNKNOWN = torch.tensor([True, False, False, True])
_GIVEN = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=torch.float64)


def conditional_distribution(repaint: Repaint = installed.repaint) -> Check:
    """With resampling, the filled part has the mean and covariance of x given the known part; the known part is exact.

    The denoiser is E[x0 | x] of the whole distribution, of a variance-preserving, a straight and an exploding process.
    """
    mean, covariance = conditional()
    errors = {}
    exact = True
    for name, grid in _grids().items():
        sampler = partial(samplers.ddim if name == "flow" else samplers.ddpm, _denoise)
        x = keys.normal(1, torch.arange(_SAMPLES), 4).double() * (grid[0].a.square() + grid[0].s.square()).sqrt()
        *_, filled = repaint(sampler, x, grid, Known(_GIVEN, _UNKNOWN), _noise, passes=_PASSES)
        found = filled[:, _UNKNOWN]
        exact &= torch.equal(filled[:, ~_UNKNOWN], _GIVEN[~_UNKNOWN].expand(_SAMPLES, 2))
        difference = torch.cat([(found.mean(0) - mean)[None], found.T.cov() - covariance])
        errors[name] = float(difference.abs().max())
    measured = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
    detail = f"mean and covariance of the filled part right to {measured}; the known part exact: {exact}"
    return Check("inpainting", "inpainting", exact and max(errors.values()) < _TOLERANCE, detail)


def conditional() -> tuple[Tensor, Tensor]:
    """The mean and covariance of the unknown part given the known one."""
    u, k = _UNKNOWN, ~_UNKNOWN
    gain = _COVARIANCE[u][:, k] @ torch.linalg.inv(_COVARIANCE[k][:, k])
    return _MEAN[u] + gain @ (_GIVEN - _MEAN)[k], _COVARIANCE[u][:, u] - gain @ _COVARIANCE[k][:, u]


def _grids() -> dict[str, Grid]:
    cosine = table("cosine", 1000)
    return {
        "cosine": table_grid(cosine, timesteps(len(cosine), _STEPS, "trailing")),
        "flow": continuous_grid(flow, even_times(_STEPS)),
        "edm": continuous_grid(variance_exploding, karras_sigmas(_STEPS, low=0.002, high=80.0)),
    }


def _denoise(x: Tensor, level: NoiseLevel) -> Tensor:
    """E[x0 | x] of the normal distribution."""
    spread = level.a.square() * _COVARIANCE + level.s.square() * torch.eye(4, dtype=torch.float64)
    x0: Tensor = _MEAN + (x - level.a * _MEAN) @ (level.a * torch.linalg.inv(spread) @ _COVARIANCE)
    return x0


def _noise(stream: str, step: int, again: int) -> Tensor:
    return keys.normal(keys.derive(1, stream, step, again), torch.arange(_SAMPLES), 4).double()
