"""The law L(N, D) = E + A / N^α + B / D^β, fitted to the losses of runs by variable projection.

This is the third approach of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models", section 3.3).
Given α and β the law is linear in E, A and B, so these three are solved for exactly, not below zero, and only the
exponents are searched (Golub & Pereyra 1973): no starting point has to be guessed, and no parabola is fitted.

The residual of a run is L̂ / L − 1, which is log L̂ − log L up to half its square, and is linear where the logarithm is
not. Its loss is Huber's (1964) with δ = 0.003: squared below, where runs differ by the luck of their seeds and are
averaged, and linear beyond, so that one diverged run cannot bend the law. It is minimised by reweighted least
squares, of which no round increases it. The standard errors of the runs are no weights: all runs of a family are
measured on the same text, so most of their errors is common to all.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PARAMETERS = 5
"""Numbers that are fitted: E, A, B, α, β."""
DELTA = 0.003
"""Relative residual from which on Huber's loss is linear."""
_EXPONENTS = (0.05, 2.0)
_GRID = 13  # values of each exponent that the search starts with
_ROUNDS, _FEW_ROUNDS = 12, 3  # of reweighting, at most
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


def fit(losses_TR: Floats, n_R: Floats, d_R: Floats, *, near: Laws | None = None) -> Laws:
    """The law of each of T sets of losses of the same R runs of sizes n_R after d_R tokens.

    near: one law, from whose exponents the search begins, and which need not be found more precisely than draws differ.
    """
    precision, rounds = (1e-5, _ROUNDS) if near is None else (4e-3, _FEW_ROUNDS)
    centre_n, centre_d = (float(np.exp(np.log(each).mean())) for each in (n_R, d_R))
    logs_2R = np.log(np.stack([n_R / centre_n, d_R / centre_d]))
    weights_TR = np.ones_like(losses_TR)
    start_T2, step = _on_grid(losses_TR, logs_2R) if near is None else (_exponents(near, len(losses_TR)), _STEP)
    where_T2 = _descend(start_T2, (step, precision), losses_TR, logs_2R, weights_TR)
    theta_T3, residuals_TR = _solve(where_T2[:, None], losses_TR, logs_2R, weights_TR)
    for _ in range(rounds):
        sizes_TR = abs(residuals_TR[:, 0])
        new_TR = np.minimum(1.0, DELTA / np.maximum(sizes_TR, 1e-300))
        if np.allclose(new_TR, weights_TR, rtol=1e-3, atol=0):
            break
        weights_TR = new_TR
        where_T2 = _descend(where_T2, (_STEP, precision), losses_TR, logs_2R, weights_TR)
        theta_T3, residuals_TR = _solve(where_T2[:, None], losses_TR, logs_2R, weights_TR)
    alpha, beta = np.exp(where_T2).T
    e, a, b = theta_T3[:, 0].T
    return Laws(e, a * centre_n**alpha, b * centre_d**beta, alpha, beta)


def _on_grid(losses_TR: Floats, logs_2R: Floats) -> tuple[Floats, float]:
    """The logarithms of the exponents on a grid that are best by least squares, [T, 2], and half its spacing."""
    low, high = np.log(_EXPONENTS)
    line = np.linspace(low, high, _GRID)
    grid_K2 = np.array(list(product(line, line)))
    scores_TK = _score(grid_K2[None], losses_TR, logs_2R, np.ones_like(losses_TR))
    return grid_K2[scores_TK.argmin(1)], float(line[1] - line[0]) / 2


def _exponents(law: Laws, count: int) -> Floats:
    return np.log(np.stack([law.alpha, law.beta], axis=1)).repeat(count, axis=0)


def _descend(
    where_T2: Floats, steps: tuple[float, float], losses_TR: Floats, logs_2R: Floats, weights_TR: Floats
) -> Floats:
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
        scores = _score(around, losses_TR[moving], logs_2R, weights_TR[moving])
        middle = len(_NEIGHBOURS) // 2
        best = scores.argmin(1)
        best = np.where(scores[np.arange(len(best)), best] < scores[:, middle], best, middle)
        where_T2[moving] = around[np.arange(len(best)), best]
        steps_T[moving] = np.where(best == middle, steps_T[moving] / 2, np.minimum(first, 2 * steps_T[moving]))
        moving = moving[steps_T[moving] > last]
    return where_T2


def _score(where_TK2: Floats, losses_TR: Floats, logs_2R: Floats, weights_TR: Floats) -> Floats:
    """The weighted sum of squared residuals at K pairs of exponents, [T, K]."""
    _, residuals_TKR = _solve(where_TK2, losses_TR, logs_2R, weights_TR)
    found: Floats = np.einsum("tr,tkr->tk", weights_TR, residuals_TKR**2)
    return found


def _solve(where_TK2: Floats, losses_TR: Floats, logs_2R: Floats, weights_TR: Floats) -> tuple[Floats, Floats]:
    """E, A, B ≥ 0 with the least weighted squares at the logarithms of exponents, [T, K, 3], and residuals [T, K, R].

    Where the solution without the limit has a negative number, some of the three are zero, and the others solve the
    problem without these: all subsets are tried.
    """
    powers = np.exp(-np.exp(where_TK2)[..., None] * logs_2R)  # [T or 1, K, 2, R]
    count, kinds = len(losses_TR), powers.shape[1]
    columns = np.empty((count, kinds, 3, losses_TR.shape[1]))
    columns[..., 0, :], columns[..., 1:, :] = 1.0, powers
    columns /= losses_TR[:, None, None]
    weighted = columns * weights_TR[:, None, None]
    gram = np.einsum("tkpr,tkqr->tkpq", weighted, columns)
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
    residuals = np.einsum("tkp,tkpr->tkr", theta, columns) - 1
    return theta, residuals
