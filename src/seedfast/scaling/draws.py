"""How sure a law is: laws of the same runs with other luck, drawn with keyed randomness.

Three kinds of luck are drawn together:

    text    the held-out text could be another one: each block of it counts with an exponential weight, the same for
            all runs and families (the Bayesian bootstrap, Rubin 1981), so that what is hard for all of them cancels
    runs    the seed could be another one: the fitted losses are given new residuals. Resampling the runs themselves
            would often lose a whole size of a design of nine. The residuals are normal, and their variance is drawn
            too, from Σ r² / χ² with as many degrees of freedom as there are runs more than numbers of the law, since so
            few runs tell it only roughly; in a linear model this gives the bands of Student's t
    law     the law may be wrong beyond the runs that it was fitted to: a prediction is multiplied by an error as large
            as those that were measured on runs of four times the FLOPs (`scaling/choice.py`)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seedfast import keys
from seedfast.errors import UserError
from seedfast.evaluate.pairing import Cut, blocks, shared_out
from seedfast.scaling.law import PARAMETERS, Floats, Form, Laws, Runs, fit, huber_weights

COUNT = 400
"""Draws of a study."""
LEVEL = 0.9
"""Probability of the bands that are printed."""
TIMES = 4
"""FLOPs of a run that tests a law, over those of the largest run of its fit."""
_CHANGE = (0.5, 2.0)  # by which a drawn residual may multiply a loss, so that none is negative


@dataclass(frozen=True)
class Sample:
    """The R runs of a family: bits per byte, size and tokens of each.

    texts_TR: the losses on other texts, divided by those on this one (default: all 1). name: of the random streams.
    """

    name: str
    losses_R: Floats
    n_R: Floats
    d_R: Floats
    texts_TR: Floats | None = None

    @property
    def flops(self) -> Floats:
        """FLOPs of training of each run: N is defined so that they are 6 N D."""
        return 6 * self.n_R * self.d_R

    def part(self, chosen: Sequence[int]) -> "Sample":
        """Some of the runs."""
        index = list(chosen)
        texts = None if self.texts_TR is None else self.texts_TR[:, index]
        return Sample(self.name, self.losses_R[index], self.n_R[index], self.d_R[index], texts)


@dataclass(frozen=True)
class Miss:
    """By how much laws missed runs with `TIMES` the FLOPs of those that they were fitted to, in `count` tests.

    size: the root mean square of the relative errors.
    """

    size: float = 0.0
    count: int = 1

    @staticmethod
    def of(errors: Sequence[float] | Floats) -> "Miss":
        """Of the relative errors of predictions."""
        return Miss(float(np.sqrt(np.square(errors).mean())), len(errors))


@dataclass(frozen=True)
class FittedLaw:
    """The law of a family, and T draws of it.

    spread: the relative standard deviation of a run about the law. spreads_T: its draws. largest: FLOPs of the largest
    run of the fit. miss: of laws beyond their fit.
    """

    law: Laws
    draws: Laws
    residuals_R: Floats
    spread: float
    spreads_T: Floats
    largest: float
    miss: Miss
    seed: int
    name: str

    def predict(self, n: float, d: float, *, of: str) -> tuple[float, Floats]:
        """The loss of a new run by the law, and T draws of it, which have luck of their own. of: names that luck.

        A run with TIMES the FLOPs of the largest of the fit is missed as the tests were, and one with their square
        twice as much.
        """
        count = len(self.spreads_T)
        luck_2T = _normal(self.seed, (self.name, "new", of), count, 2).T
        chi_T = (_normal(self.seed, (self.name, "missed", of), count, self.miss.count) ** 2).mean(1)
        beyond = max(0.0, math.log(6 * n * d / self.largest) / math.log(TIMES))
        missed_T = beyond * self.miss.size / np.sqrt(chi_T)
        drawn = self.draws.loss(n, d) * (1 + self.spreads_T * luck_2T[0]).clip(*_CHANGE)
        return float(self.law.loss(n, d)[0]), drawn * (1 + missed_T * luck_2T[1]).clip(*_CHANGE)


def fitted(
    samples: Sequence[Sample], form: Form = "own", *, seed: int, miss: Miss | None = None, count: int = COUNT
) -> list[FittedLaw]:
    """Fit the law of each family in one form, and draw `count` others. Raises UserError for too few runs."""
    for sample in samples:
        if len(sample.losses_R) <= PARAMETERS[form]:
            raise UserError(
                f"A law of {PARAMETERS[form]} numbers needs {PARAMETERS[form] + 1} runs at least, and {sample.name} "
                f"has {len(sample.losses_R)}."
            )
    laws = fit([Runs(each.losses_R[None], each.n_R, each.d_R) for each in samples], form)
    made = [_drawn(sample, law, len(sample.losses_R) - PARAMETERS[form], seed, count)
            for sample, law in zip(samples, laws, strict=True)]  # fmt: skip
    draws = fit([runs for runs, _, _, _ in made], form)
    return [
        FittedLaw(
            law=law,
            draws=drawn,
            residuals_R=residuals_R,
            spread=spread,
            spreads_T=spreads_T,
            largest=float(sample.flops.max()),
            miss=miss or Miss(),
            seed=seed,
            name=sample.name,
        )
        for sample, law, drawn, (_, residuals_R, spread, spreads_T) in zip(samples, laws, draws, made, strict=True)
    ]


def _drawn(sample: Sample, law: Laws, freedom: int, seed: int, count: int) -> tuple[Runs, Floats, float, Floats]:
    """The runs with other luck, and of the law: its residuals, their standard deviation, and draws of that."""
    curve_R = law.loss(sample.n_R, sample.d_R)
    residuals_R = sample.losses_R / curve_R - 1
    squares = float((residuals_R**2).sum())
    chi_T = (_normal(seed, (sample.name, "spread"), count, freedom) ** 2).sum(1)
    spreads_T = np.sqrt(squares / chi_T)
    luck_TR = _normal(seed, (sample.name, "runs"), count, len(residuals_R))
    drawn_TR = curve_R * (1 + spreads_T[:, None] * luck_TR).clip(*_CHANGE)
    drawn_TR = drawn_TR if sample.texts_TR is None else drawn_TR * sample.texts_TR[:count]
    weights_TR = np.tile(huber_weights(residuals_R), (count, 1))  # a run that the law gave up keeps its small weight
    runs = Runs(drawn_TR, sample.n_R, sample.d_R, weights_TR)
    return runs, residuals_R, float(np.sqrt(squares / freedom)), spreads_T


def other_texts(totals: Sequence[Floats], cuts: Sequence[Cut], *, seed: int, count: int = COUNT) -> Floats | None:
    """The loss of each of R runs on `count` other texts, divided by its loss on this one, [count, R].

    totals: of the windows of each run; cuts: how these cut the same bytes. None where the windows cannot be paired.
    """
    kinds = list({cut.identity: cut for cut in cuts}.values())
    if len(kinds) == 1 and kinds[0].documents_E is None:
        sizes = cuts[0].sizes_E
        bounds, parts_RP = np.concatenate([[0], np.cumsum(sizes)]).astype(np.float64), np.stack(list(totals))
    elif len(kinds) <= 2 and all(cut.documents_E is not None for cut in kinds):
        bounds = blocks(kinds[0], kinds[-1])
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
