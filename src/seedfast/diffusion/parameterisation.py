"""What a network predicts, how a prediction is converted, and how its error is weighted.

Every parameterisation in use is a linear combination p·x0 + q·ε of the two parts of x = a·x0 + s·ε. The coefficients p
and q therefore determine everything: the target, the conversion back to x0, and the weight of a squared error.
"""

from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.levels import NoiseLevel, match_dims
from seedfast.errors import UserError

Prediction = Literal["eps", "x0", "v", "flow", "edm"]


def coefficients(prediction: Prediction, level: NoiseLevel, sigma_data: float = 1.0) -> tuple[Tensor, Tensor]:
    """(p, q) of the network's target p·x0 + q·ε. `sigma_data` is the σ_data of EDM's preconditioning."""
    a, s = level.a, level.s
    match prediction:
        case "eps":  # Ho et al. 2020
            return torch.zeros_like(a), torch.ones_like(a)
        case "x0":
            return torch.ones_like(a), torch.zeros_like(a)
        case "v":  # Salimans & Ho 2022
            return -s, a
        case "flow":  # the velocity dx/dt of the straight path
            return -torch.ones_like(a), torch.ones_like(a)
        case "edm":  # Karras et al. 2022, table 1: (x0 - c_skip·x) / c_out; with σ_data = 1 it is -v
            size = input_std(level, sigma_data)
            return s / (sigma_data * size), -a * sigma_data / size


def input_std(level: NoiseLevel, sigma_data: float) -> Tensor:
    """The standard deviation of x for data of standard deviation σ_data; EDM's c_in is its reciprocal (for a = 1)."""
    return (level.a.square() * sigma_data**2 + level.s.square()).sqrt()


def determinant(prediction: Prediction, level: NoiseLevel, sigma_data: float = 1.0) -> Tensor:
    """a·q - s·p: the prediction's error is this, divided by s, times the error of x0. At 0, x0 is not recoverable."""
    p, q = coefficients(prediction, level, sigma_data)
    return level.a * q - level.s * p


def check_recoverable(prediction: Prediction, level: NoiseLevel) -> None:
    """Raise UserError if x0 cannot be computed from the prediction at some level, such as from ε without signal."""
    if bool((determinant(prediction, level) == 0).any()):
        raise UserError(
            f"The noisiest level of this schedule has no signal, so x0 cannot be computed from a prediction of "
            f"{prediction} there: predict v or x0 instead (or, on a discrete schedule, leave out zero terminal SNR)."
        )


def target(prediction: Prediction, x0: Tensor, eps: Tensor, level: NoiseLevel, sigma_data: float = 1.0) -> Tensor:
    """The network's target, p·x0 + q·ε."""
    p, q = coefficients(prediction, level, sigma_data)
    return match_dims(p, x0) * x0 + match_dims(q, eps) * eps


def to_x0(prediction: Prediction, output: Tensor, x: Tensor, level: NoiseLevel, sigma_data: float = 1.0) -> Tensor:
    """x0 from the network's output at x, by Cramer's rule on (x, output) as combinations of x0 and ε."""
    _, q = coefficients(prediction, level, sigma_data)
    d = determinant(prediction, level, sigma_data)
    return match_dims(q / d, x) * x - match_dims(level.s / d, x) * output


def to_eps(prediction: Prediction, output: Tensor, x: Tensor, level: NoiseLevel, sigma_data: float = 1.0) -> Tensor:
    """ε from the network's output at x."""
    p, _ = coefficients(prediction, level, sigma_data)
    d = determinant(prediction, level, sigma_data)
    return match_dims(level.a / d, x) * output - match_dims(p / d, x) * x


def x0_weight(prediction: Prediction, level: NoiseLevel, sigma_data: float = 1.0) -> Tensor:
    """The prediction's squared error divided by that of x0: SNR for ε, SNR + 1 for v, 1/c_out² for EDM."""
    return (determinant(prediction, level, sigma_data) / level.s).square()


def min_snr_weight(prediction: Prediction, level: NoiseLevel, clip: float, sigma_data: float = 1.0) -> Tensor:
    """The factor of the prediction's squared error that weights the error of x0 by min(SNR, γ) (Hang et al. 2023).

    Finite at every level, also without signal and without noise.
    """
    capped = torch.minimum(level.a.square(), clip * level.s.square())  # min(SNR, γ)·s²
    d2 = determinant(prediction, level, sigma_data).square()
    # Only for ε without signal and for x0 without noise is this 0/0; their limits are min(1, γ/SNR) and min(SNR, γ).
    limit = torch.full_like(d2, clip if prediction == "x0" else 1.0)
    return torch.where(d2 > 0, capped / d2, limit)
