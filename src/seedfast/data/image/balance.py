"""Weights of classes that differ in size, to sample by or to count losses by."""

import math
from collections.abc import Sequence
from typing import Literal

from seedfast.errors import UserError

Balance = Literal["inverse-frequency", "effective-number", "manual"]

BETA = 0.999
"""The usual β of the effective number (Cui et al. 2019)."""


def check_balance(where: str, key: str, balance: Balance | None, *, beta: float, manual: Sequence[float]) -> None:
    """Raise UserError for numbers that make no weights, or that this balance has no use for. where, key: its name."""
    if not 0 <= beta < 1:
        raise UserError(f"{where}beta={beta} must lie in [0, 1).")
    if beta != BETA and balance != "effective-number":
        raise UserError(f"{where}beta={beta} has no effect without {key}=effective-number: leave it out.")
    if bool(manual) != (balance == "manual"):
        raise UserError(f"{where}class_weights and {key}=manual go together: give both or neither.")
    if not all(math.isfinite(weight) and weight > 0 for weight in manual):
        raise UserError(f"{where}class_weights must be positive numbers, not {tuple(manual)}.")


def class_weights(
    counts: Sequence[int], balance: Balance | None, *, beta: float, manual: Sequence[float]
) -> list[float]:
    """One weight for each class, of mean 1; all 1 if `balance` is None.

    inverse-frequency: 1/n. effective-number: (1 - β)/(1 - βⁿ) (Cui et al. 2019). manual: as given, in the classes'
    order. Raises UserError if they are not one for each class.
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
