"""What a network predicts, and how that is converted and weighted.

Every parameterisation in use is a linear combination p·x0 + q·ε of what x = a·x0 + s·ε is made of. So two coefficients
say everything: the target, the way back to x0, and how squared errors in one are worth in another.
"""

from typing import Literal

import torch
from torch import Tensor

from seedfast.diffusion.levels import Level, over
from seedfast.errors import UserError

Prediction = Literal["eps", "x0", "v", "flow", "edm"]


def coefficients(prediction: Prediction, level: Level, data_std: float = 1.0) -> tuple[Tensor, Tensor]:
    """(p, q): the network's target is p·x0 + q·ε. `data_std` is the σ_data of EDM's preconditioning."""
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
            size = input_std(level, data_std)
            return s / (data_std * size), -a * data_std / size


def input_std(level: Level, data_std: float) -> Tensor:
    """The standard deviation of x where the data's is σ_data; EDM's c_in is its reciprocal (for a = 1)."""
    return (level.a.square() * data_std**2 + level.s.square()).sqrt()


def determinant(prediction: Prediction, level: Level, data_std: float = 1.0) -> Tensor:
    """a·q - s·p: the prediction's error is this, divided by s, times the error of x0. Zero: x0 cannot be recovered."""
    p, q = coefficients(prediction, level, data_std)
    return level.a * q - level.s * p


def check_recoverable(prediction: Prediction, level: Level) -> None:
    """Raise UserError if the prediction says nothing of x0 at some level: ε where there is no signal."""
    if bool((determinant(prediction, level) == 0).any()):
        raise UserError(
            f"The noisiest input of this schedule holds no signal, and a network that predicts {prediction} could not "
            "say what is in it: predict v or x0 instead (or, on a discrete schedule, leave out zero terminal SNR)."
        )


def target(prediction: Prediction, x0: Tensor, eps: Tensor, level: Level, data_std: float = 1.0) -> Tensor:
    """What the network should answer."""
    p, q = coefficients(prediction, level, data_std)
    return over(p, x0) * x0 + over(q, eps) * eps


def to_x0(prediction: Prediction, answer: Tensor, x: Tensor, level: Level, data_std: float = 1.0) -> Tensor:
    """The clean example that an answer at x means: Cramer's rule on (x, answer) as combinations of x0 and ε."""
    _, q = coefficients(prediction, level, data_std)
    d = determinant(prediction, level, data_std)
    return over(q / d, x) * x - over(level.s / d, x) * answer


def to_eps(prediction: Prediction, answer: Tensor, x: Tensor, level: Level, data_std: float = 1.0) -> Tensor:
    """The noise that an answer at x means."""
    p, _ = coefficients(prediction, level, data_std)
    d = determinant(prediction, level, data_std)
    return over(level.a / d, x) * answer - over(p / d, x) * x


def x0_weight(prediction: Prediction, level: Level, data_std: float = 1.0) -> Tensor:
    """How many times the squared error of x0 the prediction's is: SNR for ε, SNR + 1 for v, 1/c_out² for EDM."""
    return (determinant(prediction, level, data_std) / level.s).square()


def min_snr_weight(prediction: Prediction, level: Level, clip: float, data_std: float = 1.0) -> Tensor:
    """The factor of the prediction's squared error that weights x0's by min(SNR, γ) (Hang et al. 2023).

    Finite at every level, also without signal and without noise.
    """
    capped = torch.minimum(level.a.square(), clip * level.s.square())  # min(SNR, γ)·s²
    d2 = determinant(prediction, level, data_std).square()
    # Only for ε without signal and for x0 without noise is this 0/0; their limits are min(1, γ/SNR) and min(SNR, γ).
    limit = torch.full_like(d2, clip if prediction == "x0" else 1.0)
    return torch.where(d2 > 0, capped / d2, limit)
