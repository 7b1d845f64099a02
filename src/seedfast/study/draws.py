"""How sure a law is: laws of the same runs with other luck, drawn with keyed randomness.

Two kinds of luck are drawn together:

    text    the held-out text could be another one: each block of it counts with an exponential weight, the same for
            all runs and families (the Bayesian bootstrap, Rubin 1981), so that what is hard for all of them cancels
    runs    the seed could be another one: the fitted losses are given new residuals. Resampling the runs themselves
            would often lose a whole size of a design of nine. The residuals are normal, and their variance is drawn
            too, from Σ r² / χ² with R − 5 degrees of freedom, since so few runs tell it only roughly; in a linear model
            this gives the bands of Student's t.

What is not drawn is that the law itself may be wrong beyond the runs that it was fitted to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seedfast import keys
from seedfast.errors import UserError
from seedfast.evaluate.pairing import Cut, blocks, shared_out
from seedfast.study.law import PARAMETERS, Floats, Laws, fit

COUNT = 400
"""Draws of a study."""
LEVEL = 0.9
"""Probability of the bands that are printed."""
_CHANGE = (0.5, 2.0)  # by which a drawn residual may multiply a loss, so that none is negative


@dataclass(frozen=True)
class FittedLaw:
    """The law of a family, and T draws of it.

    spread: the relative standard deviation of a run about the law. spreads_T: its draws. name: of the random streams.
    """

    law: Laws
    draws: Laws
    residuals_R: Floats
    spread: float
    spreads_T: Floats
    seed: int
    name: str

    def predict(self, n: float, d: float, *, of: str) -> tuple[float, Floats]:
        """The loss of a new run by the law, and T draws of it, which have luck of their own. of: names that luck."""
        luck_T = _normal(self.seed, (self.name, "new", of), len(self.spreads_T), 1)[:, 0]
        drawn = self.draws.loss(n, d) * (1 + self.spreads_T * luck_T).clip(*_CHANGE)
        return float(self.law.loss(n, d)[0]), drawn


def fitted(
    losses_R: Floats,
    n_R: Floats,
    d_R: Floats,
    *,
    seed: int,
    name: str,
    texts_TR: Floats | None = None,
    count: int = COUNT,
) -> FittedLaw:
    """Fit the law of a family, and draw `count` others.

    texts_TR: the losses on other texts, divided by those on this one (default: all 1).
    Raises UserError for too few runs, sizes or lengths.
    """
    freedom = len(losses_R) - PARAMETERS
    if freedom < 1:
        raise UserError(
            f"A law of {PARAMETERS} numbers needs {PARAMETERS + 1} runs at least, and {name} has {len(losses_R)}."
        )
    law = fit(losses_R[None], n_R, d_R)
    curve_R = law.loss(n_R, d_R)
    residuals_R = losses_R / curve_R - 1
    squares = float((residuals_R**2).sum())
    chi_T = (_normal(seed, (name, "spread"), count, freedom) ** 2).sum(1)
    spreads_T = np.sqrt(squares / chi_T)
    luck_TR = _normal(seed, (name, "runs"), count, len(losses_R))
    drawn_TR = curve_R * (1 + spreads_T[:, None] * luck_TR).clip(*_CHANGE)
    drawn_TR = drawn_TR if texts_TR is None else drawn_TR * texts_TR
    draws = fit(drawn_TR, n_R, d_R, near=law)
    return FittedLaw(law, draws, residuals_R, float(np.sqrt(squares / freedom)), spreads_T, seed, name)


def other_texts(totals: Sequence[Floats], cuts: Sequence[Cut], *, seed: int, count: int = COUNT) -> Floats | None:
    """The loss of each of R runs on `count` other texts, divided by its loss on this one, [count, R].

    totals: of the windows of each run; cuts: how these cut the same bytes. None where the windows cannot be paired.
    """
    kinds = {cut.identity: cut for cut in cuts}
    if len(kinds) == 1:
        sizes = cuts[0].sizes_E
        bounds, parts_RP = np.concatenate([[0], np.cumsum(sizes)]).astype(np.float64), np.stack(list(totals))
    elif len(kinds) == 2 and all(cut.is_ordered for cut in kinds.values()):
        one, other = (cut.sizes_E for cut in kinds.values())
        bounds = blocks(one, other)
        parts_RP = np.stack([shared_out(each, cut.sizes_E, bounds) for each, cut in zip(totals, cuts, strict=True)])
    else:
        return None
    weights_TP = -np.log1p(-_uniform(seed, ("texts",), count, len(bounds) - 1))
    sizes_T = weights_TP @ np.diff(bounds)
    found: Floats = (weights_TP @ parts_RP.T) / sizes_T[:, None] / (parts_RP.sum(1) / bounds[-1])
    return found


def band(draws_T: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The central interval of draws that holds this part of them."""
    low, high = np.quantile(draws_T, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _normal(seed: int, purpose: tuple[str, ...], count: int, each: int) -> Floats:
    found: Floats = keys.normal(_key(seed, purpose), torch.arange(count), each).double().numpy()
    return found


def _uniform(seed: int, purpose: tuple[str, ...], count: int, each: int) -> Floats:
    found: Floats = keys.uniform(_key(seed, purpose), torch.arange(count), each, dtype=torch.float64).numpy()
    return found


def _key(seed: int, purpose: tuple[str, ...]) -> int:
    return keys.derive(seed, "study", *purpose)
