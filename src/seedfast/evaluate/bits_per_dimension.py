"""A bound on the likelihood of images, in bits per dimension: a pixel of a channel, a whole number from 0 to 255.

The levels of noise ℓ_1 … ℓ_T of the process, the least noisy first, make a chain of Gaussian steps from noise to
pixels, and its variational bound is (Kingma et al. 2021, "Variational Diffusion Models", equations 11 to 14)

    -log p(x) ≤ KL(q(z_T|x) ‖ N(0, s_T²))                               = SNR_T ‖x‖² / 2
              + E -log p(x|z_1)        every pixel one of its 256 values, p ∝ N(x̂(z_1, 1), τ²)
              + Σ_{t=2}^{T} E (SNR_{t-1} - SNR_t) ‖x - x̂(z_t, t)‖² / 2

for every x̂, such as the network's estimate of the image, clipped to the range of pixels. One level t is drawn for each
image and draw, spread evenly, with a probability that follows the fall of log SNR: near the pixels a small error has a
large weight. The estimate has no bias for any probability. The last step to the pixels is a mixture over several widths
τ for the whole image, from s_1 / a_1 on halved: a network that is surer than its least noise gets the credit, and the
mixture costs the logarithm of their number. Images with classes are scored given their class.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor

from seedfast.console import track
from seedfast.data.image.dataset import ImageAssets
from seedfast.diffusion.levels import NoiseLevel, add_noise
from seedfast.diffusion.samplers import Denoise
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.trained import Trained
from seedfast.families.image.family import ImageObjective
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.sampling import ImageGenerator
from seedfast.files import finite
from seedfast.keys import Draws
from seedfast.loop.standard_error import ratio_of_sums
from seedfast.options import AtLeast, check

LEVELS = 1000
"""Levels of the chain, at most; all timesteps of a discrete schedule with as many."""
_LARGEST_FALL = 1.0  # of log SNR from a level to the next, which is infinite to one without signal
_PIXELS = 1 << 16  # that are computed at once
_VALUES, _HALF = 256, 127.5
_WIDTHS = 7
_REACH = 8  # standard deviations, beyond which a Gaussian adds nothing


@dataclass(frozen=True)
class BitsPerDimension:
    """The bound and its standard error over images. totals: of each image, in bits per dimension; not in the record."""

    value: float
    standard_error: float
    images: int
    draws: int
    totals: tuple[float, ...] = field(default=(), repr=False)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = finite(
            {
                "upper": self.value,
                "upper_standard_error": self.standard_error,
                "images": self.images,
                "draws": self.draws,
            }
        )
        return values

    def table(self) -> list[str]:
        """As lines for a terminal."""
        line = f"bits per dimension ≤ {self.value:.5f} ± {self.standard_error:.5f}"
        return [line, *rows({"images": self.images, "draws": self.draws})]


@dataclass(frozen=True, kw_only=True)
class ImageBound:
    """The variational bound of images."""

    name: ClassVar[str] = "bits_per_dimension"

    draws: Annotated[int | None, AtLeast(1)] = None
    """Noise levels at which each image is scored (default: the run's)."""

    def __post_init__(self) -> None:
        check(self)

    def fits(self, model: Trained) -> str | None:
        """Image models with held-out data."""
        is_image = isinstance(model.family.objective, ImageObjective) and isinstance(model.assets, ImageAssets)
        return no_validation(model) if is_image else f"A model of {model.run.recipe} has no likelihood of images."

    @torch.no_grad()
    def __call__(self, model: Trained) -> BitsPerDimension:
        """Measure. Raises UserError for another model, or changed data."""
        if reason := self.fits(model):
            raise UserError(reason)
        objective, generator = model.family.objective, cast("ImageGenerator", model.generator)
        assert isinstance(objective, ImageObjective)
        assert isinstance(model.assets, ImageAssets)
        draws, levels = self.draws or objective.options.evaluation_draws, chain(objective.process)
        count, device = len(model.corpus.validation), model.distributed.device
        nats_E, dimensions = torch.zeros(count, dtype=torch.float64), model.assets.size**2 * model.assets.channels
        size, request = max(1, _PIXELS // dimensions), ImageRequest(guidance=1.0)
        starts = range(0, count * draws, size)
        for start in track("Bound", starts, len(starts)):
            positions_B = torch.arange(start, min(start + size, count * draws))
            ids_B = positions_B // draws
            batch = model.corpus.validation.batch(ids_B.tolist())
            labels_B, x0 = batch["labels"].to(device), (batch["pixels"].double() / _HALF - 1).to(device)
            keyed = Draws(seed=model.run.seed, scope=self.name, positions_B=positions_B.to(device), group=draws)
            first_B = (positions_B % draws == 0).to(device)  # the pixels once for each image
            with model.distributed.autocast():
                denoise = generator.denoiser(model.network, labels_B, request)
                steps_B = step_nats(denoise, x0, levels, keyed) + prior_nats(x0, levels)
                nats_E.index_add_(0, ids_B, steps_B.cpu() / draws)
                if bool(first_B.any()):
                    denoise = generator.denoiser(model.network, labels_B[first_B], request)
                    own = replace(keyed, positions_B=keyed.positions_B[first_B])
                    pixels_B = pixel_nats(denoise, x0[first_B], levels, own)
                    nats_E.index_add_(0, ids_B[first_B.cpu()], pixels_B.cpu())
        bits_E = nats_E / math.log(2) / dimensions
        value, error, _ = ratio_of_sums(bits_E, torch.ones_like(bits_E))
        return BitsPerDimension(value, error, count, draws, tuple(bits_E.tolist()))


def chain(process: NoiseProcess) -> NoiseLevel:
    """The levels ℓ_1 … ℓ_T of a process, each [T], the least noisy first."""
    levels = process.bin_centres(LEVELS)
    order_T = levels.gamma.argsort()
    return NoiseLevel(levels.a[order_T], levels.s[order_T], levels.time[order_T])


def at(levels: NoiseLevel, index: Tensor | int, device: torch.device) -> NoiseLevel:
    """Some of the levels of a chain, on a device."""
    return NoiseLevel(*(each[index].to(device) for each in (levels.a, levels.s, levels.time)))


def prior_nats(x0: Tensor, levels: NoiseLevel) -> Tensor:
    """KL(q(z_T|x) ‖ N(0, s_T²)) of each image, float64 [B]."""
    return levels.snr[-1].to(x0.device) / 2 * x0.square().flatten(1).sum(dim=1)


def pixel_nats(denoise: Denoise, x0: Tensor, levels: NoiseLevel, draws: Draws) -> Tensor:
    """-log p(x|z_1) of each image, at one keyed z_1, float64 [B]."""
    level = at(levels, 0, x0.device)
    z = add_noise(x0.float(), draws.normal("pixels", *x0.shape[1:]), level)
    targets_N = ((x0 + 1) * _HALF).round().flatten()
    centres_N = ((denoise(z, level).double() + 1) * _HALF).flatten()
    widest = float(level.s / level.a) * _HALF  # in steps from a value to the next
    nats = [
        torch.cat([
            _value_nats(*part, widest / 2**halving)
            for part in zip(torch.split(targets_N, _PIXELS), torch.split(centres_N, _PIXELS), strict=True)
        ]).view(len(x0), -1).sum(dim=1)
        for halving in range(_WIDTHS)
    ]  # fmt: skip
    return math.log(_WIDTHS) - torch.stack(nats).neg().logsumexp(dim=0)


def _value_nats(targets_N: Tensor, centres_N: Tensor, width: float) -> Tensor:
    """-log of the probability of values, each that of a Gaussian around a centre, over all values from 0 to 255."""
    reach = min(_VALUES, math.ceil(_REACH * width) + 1)
    nearest_N = centres_N.round().clamp(0, _VALUES - 1)
    values_NK = nearest_N[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64, device=centres_N.device)
    energy_NK = ((values_NK - centres_N[:, None]) / width).square() / 2
    is_value_NK = (values_NK >= 0) & (values_NK < _VALUES)
    log_sum_N = energy_NK.neg().masked_fill(~is_value_NK, -torch.inf).logsumexp(dim=1)
    return ((targets_N - centres_N) / width).square() / 2 + log_sum_N


def step_nats(denoise: Denoise, x0: Tensor, levels: NoiseLevel, draws: Draws) -> Tensor:
    """An estimate of the sum over the steps, of each image by one of them, float64 [B]."""
    snr_T = levels.snr
    falls = (-levels.gamma[:-1] + levels.gamma[1:]).clamp(max=_LARGEST_FALL)
    p_T = falls / falls.sum()
    u_B = draws.stratified("time").cpu()
    step_B = torch.searchsorted(p_T.cumsum(0), u_B, right=True).clamp(max=len(p_T) - 1)  # from ℓ_{step+2} to ℓ_{step+1}
    weight_B = ((snr_T[step_B] - snr_T[step_B + 1]) / p_T[step_B] / 2).to(x0.device)
    level = at(levels, step_B + 1, x0.device)
    x = add_noise(x0.float(), draws.normal("noise", *x0.shape[1:]), level)
    return weight_B * (x0 - denoise(x, level).double()).square().flatten(1).sum(dim=1)
