"""The law L(N, D) = E + A / N^α + B / D^β, fitted to the losses of runs by variable projection.

This is the third approach of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models", section 3.3).
Given α and β the law is linear in E, A and B, so these three are solved for exactly, not below zero, and only the
exponents are searched (Golub & Pereyra 1973): no starting point has to be guessed, and no parabola is fitted.

The residual of a run is L̂ / L − 1, which is log L̂ − log L up to half its square, and is linear where the logarithm is
not. Its loss is Huber's (1964) with δ = 0.003: squared below, where runs differ by the luck of their seeds and are
averaged, and linear beyond, so that one diverged run cannot bend the law. It is minimised by reweighted least
squares, of which no round increases it. The standard errors of the runs are no weights: all runs of a family are
measured on the same text, so most of their errors is common to all.

Few runs tell the exponents badly, since a smaller exponent and a smaller E look alike within the fit and differ beyond
it. So there are three forms of the law, and `study/choice.py` finds out which of them predicts best:

    own      each family has exponents of its own
    prior    the same, and log α and log β have a normal prior around 0.34 and 0.28 (Hoffmann et al. 2022, section D.2)
    shared   all families have the same exponents, with this prior
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Form = Literal["own", "prior", "shared"]
"""What is known of the exponents."""
FORMS: tuple[Form, ...] = get_args(Form)
PARAMETERS: dict[Form, int] = {"own": 5, "prior": 4, "shared": 4}
"""Numbers that are fitted: E, A and B, and two exponents, for which a prior counts as half the knowledge."""
DELTA = 0.003
"""Relative residual from which on Huber's loss is linear."""
_PRIOR = np.log([0.34, 0.28])
_PRIOR_WIDTH = 0.3  # of the logarithms: a third of the exponent
_LUCK = 0.005  # relative residual that is as unlikely as one width of the prior
_EXPONENTS = (0.05, 2.0)
_GRID = 13  # values of each exponent that the search starts with
_ROUNDS = 12  # of reweighting, at most
_STEP = 0.2  # of the logarithms of exponents, with which a search from a good start begins
_NEIGHBOURS = np.array(list(product((-1.0, 0.0, 1.0), repeat=2)))
_SUBSETS = ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,))  # of E, A and B: those that are not zero


@dataclass(frozen=True)
class Laws:
    """T laws at once: e, a, b, alpha, beta, each float64 [T]. Losses are in the unit of those that were fitted."""

    e: Floats
    a: Floats
    b: Floats
    alpha: Floats
    beta: Floats

    def loss(self, n: Floats | float, d: Floats | float) -> Floats:
        """The loss of a model of size n after d tokens; n and d broadcast against [T]."""
        found: Floats = self.e + self.a * np.power(n, -self.alpha) + self.b * np.power(d, -self.beta)
        return found


@dataclass(frozen=True)
class Runs:
    """The R runs of a family: T sets of losses, sizes and tokens; weights_TR of the residuals (default: 1)."""

    losses_TR: Floats
    n_R: Floats
    d_R: Floats
    weights_TR: Floats | None = None


@dataclass
class _Group:
    """The runs of a family in the terms of the search: logarithms of N and D from their means over all families."""

    losses_TR: Floats
    logs_2R: Floats
    weights_TR: Floats


def fit(families: Sequence[Runs], form: Form = "own", *, near: Sequence[Laws] | None = None) -> list[Laws]:
    """The laws of families, each with T sets of losses.

    near: one law of each family, from whose exponents the search begins; their weights are final, and exponents need
    not be found more precisely than draws differ.
    """
    if form != "shared" and len(families) > 1:
        return [
            fit([each], form, near=None if near is None else [near[number]])[0] for number, each in enumerate(families)
        ]
    centre_2 = [float(np.exp(np.log(np.concatenate(each)).mean())) for each in _sizes(families)]
    groups = [
        _Group(
            each.losses_TR,
            np.log(np.stack([each.n_R / centre_2[0], each.d_R / centre_2[1]])),
            np.ones_like(each.losses_TR) if each.weights_TR is None else each.weights_TR,
        )
        for each in families
    ]
    score = _scorer(groups, is_prior=form != "own")
    if near is None:
        where_T2 = _reweighted(groups, score)
    else:
        start_2 = np.log([near[0].alpha[0], near[0].beta[0]])
        where_T2 = _descend(np.tile(start_2, (len(families[0].losses_TR), 1)), (_STEP, 4e-3), score)
    alpha, beta = np.exp(where_T2).T
    laws = []
    for group in groups:
        e, a, b = _solve(where_T2[:, None], group)[0][:, 0].T
        laws.append(Laws(e, a * centre_2[0] ** alpha, b * centre_2[1] ** beta, alpha, beta))
    return laws


def huber_weights(residuals: Floats) -> Floats:
    """The weights with which squares of these residuals have the slope of Huber's loss."""
    found: Floats = np.minimum(1.0, DELTA / np.maximum(abs(residuals), 1e-300))
    return found


def _sizes(families: Sequence[Runs]) -> tuple[list[Floats], list[Floats]]:
    return [each.n_R for each in families], [each.d_R for each in families]


Score = Callable[[Floats, npt.NDArray[np.int64] | slice], Floats]
"""Of K pairs of logarithms of exponents [T or 1, K, 2] for some of the sets of losses: [T, K]."""


def _scorer(groups: Sequence[_Group], *, is_prior: bool) -> Score:
    """The weighted sum of squared residuals of all groups, plus that of the prior."""

    def score(where_TK2: Floats, chosen: npt.NDArray[np.int64] | slice) -> Floats:
        found = np.zeros(())
        for group in groups:
            part = _Group(group.losses_TR[chosen], group.logs_2R, group.weights_TR[chosen])
            found = found + np.einsum("tr,tkr->tk", part.weights_TR, _solve(where_TK2, part)[1] ** 2)
        if is_prior:
            found = found + (((where_TK2 - _PRIOR) * (_LUCK / _PRIOR_WIDTH)) ** 2).sum(-1)
        return found

    return score


def _reweighted(groups: Sequence[_Group], score: Score) -> Floats:
    """The logarithms of the exponents that are best by Huber's loss, [T, 2]: squares, weighted until they are."""
    low, high = np.log(_EXPONENTS)
    line = np.linspace(low, high, _GRID)
    grid_K2 = np.array(list(product(line, line)))
    where_T2 = grid_K2[score(grid_K2[None], slice(None)).argmin(1)]
    step = float(line[1] - line[0]) / 2
    for _ in range(_ROUNDS):
        where_T2 = _descend(where_T2, (step, 1e-5), score)
        step = _STEP
        before = [group.weights_TR for group in groups]
        for group in groups:
            group.weights_TR = huber_weights(_solve(where_T2[:, None], group)[1][:, 0])
        if all(np.allclose(group.weights_TR, old, rtol=1e-3) for group, old in zip(groups, before, strict=True)):
            break
    return where_T2


def _descend(where_T2: Floats, steps: tuple[float, float], score: Score) -> Floats:
    """Pattern search: go to the best of nine points around; halve their distance where that is the middle, and double
    it elsewhere.

    steps: the first distance, and the last.
    """
    first, last = steps
    steps_T = np.full(len(where_T2), first)
    where_T2, low, high = where_T2.copy(), *np.log(_EXPONENTS)
    moving = np.arange(len(where_T2))
    while len(moving):
        around = (where_T2[moving, None] + steps_T[moving, None, None] * _NEIGHBOURS).clip(low, high)
        scores = score(around, moving)
        middle = len(_NEIGHBOURS) // 2
        best = scores.argmin(1)
        best = np.where(scores[np.arange(len(best)), best] < scores[:, middle], best, middle)
        where_T2[moving] = around[np.arange(len(best)), best]
        steps_T[moving] = np.where(best == middle, steps_T[moving] / 2, np.minimum(first, 2 * steps_T[moving]))
        moving = moving[steps_T[moving] > last]
    return where_T2


def _solve(where_TK2: Floats, group: _Group) -> tuple[Floats, Floats]:
    """E, A, B ≥ 0 with the least weighted squares at the logarithms of exponents, [T, K, 3], and residuals [T, K, R].

    Where the solution without the limit has a negative number, some of the three are zero, and the others solve the
    problem without these: all subsets are tried.
    """
    powers = np.exp(-np.exp(where_TK2)[..., None] * group.logs_2R)  # [T or 1, K, 2, R]
    losses_TR, weights_TR = group.losses_TR, group.weights_TR
    count, kinds = len(losses_TR), powers.shape[1]
    columns = np.empty((count, kinds, 3, losses_TR.shape[1]))
    columns[..., 0, :], columns[..., 1:, :] = 1.0, powers
    columns /= losses_TR[:, None, None]
    weighted = columns * weights_TR[:, None, None]
    gram = weighted @ columns.swapaxes(-1, -2)
    right = weighted.sum(-1)
    theta = np.zeros((count, kinds, 3))
    gains = np.zeros((count, kinds))  # by which the squares are less than those of zeros
    is_open = np.ones((count, kinds), bool)
    for subset in _SUBSETS:
        t, k = np.nonzero(is_open)
        part = gram[t, k][np.ix_(range(len(t)), subset, subset)]
        part += 1e-13 * gram[t, k, 0, 0, None, None] * np.eye(len(subset))
        values = np.zeros((len(t), 3))
        values[:, subset] = np.linalg.solve(part, right[t, k][:, subset, None])[..., 0]
        gain = np.einsum("np,np->n", right[t, k], values)
        better = (values >= 0).all(1) & (gain > gains[t, k])
        theta[t[better], k[better]], gains[t[better], k[better]] = values[better], gain[better]
        if len(subset) == 3:
            is_open = gains == 0
    residuals = (theta[..., None, :] @ columns)[..., 0, :] - 1
    return theta, residuals
