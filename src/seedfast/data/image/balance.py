"""Class balance: weights of classes of different size, for sampling or for the loss."""

import math
from collections.abc import Sequence
from typing import Literal

from seedfast.errors import UserError

Balance = Literal["inverse-frequency", "effective-number", "manual"]

BETA = 0.999
"""The usual β of the effective number (Cui et al. 2019)."""


def check_manual_weights(key: str, weights: Sequence[float], balance_key: str, balance: Balance | None) -> None:
    """Raise UserError for manual weights that are missing or not finite. `key`, `balance_key`: the options' names."""
    if balance == "manual" and not weights:
        raise UserError(f"{balance_key} manual needs {key}, one positive number for each class.")
    if not all(math.isfinite(weight) for weight in weights):
        raise UserError(f"{key} must be positive numbers, not {tuple(weights)}.")


def class_weights(
    counts: Sequence[int], balance: Balance | None, *, beta: float, manual: Sequence[float]
) -> list[float]:
    """One weight for each class, of mean 1; all 1 if `balance` is None.

    inverse-frequency: 1/n. effective-number: (1 - β)/(1 - βⁿ) (Cui et al. 2019). manual: as given, in the order of the
    classes. Raises UserError unless there is one manual weight for each class.
    """
    match balance:
        case None:
            weights = [1.0] * len(counts)
        case "inverse-frequency":
            weights = [1 / n for n in counts]
        case "effective-number":
            weights = [(1 - beta) / (1 - beta**n) for n in counts]
        case "manual":
            weights = list(manual)
    if len(weights) != len(counts):
        raise UserError(f"Manual class weights must be {len(counts)} numbers, one for each class: {tuple(manual)}.")
    return [weight * len(weights) / sum(weights) for weight in weights]
