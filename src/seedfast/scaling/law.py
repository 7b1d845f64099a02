"""The law L(N, D) = E + A / N^α + B / D^β, fitted to the losses of runs by variable projection.

This is the third approach of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models", section 3.3). With
A / N^α + B / D^β = S (κ (N / N₀)^-α + (1 − κ) (D / D₀)^-β) the law is linear in E and S, so these two are solved for
exactly, not below zero, and only α, β and κ are searched (Golub & Pereyra 1973), by Levenberg-Marquardt from the best
point of a grid: no starting point has to be guessed, and no parabola is fitted.

The residual of a run is L̂ / L − 1, which is log L̂ − log L up to half its square, and is linear where the logarithm is
not. Its loss is Huber's (1964) with δ = 0.003: squared below, where runs differ by the luck of their seeds and are
averaged, and linear beyond, so that one diverged run cannot bend the law. It is minimised by reweighted least
squares. The standard errors of the runs are no weights: all runs of a family are measured on the same text, so most of
their errors is common to all.

Few runs tell the exponents badly, since a smaller exponent and a smaller E look alike within the fit and differ beyond
it. And in short runs size counts for less than the sum has it. So there are four forms of the law, and
`scaling/choice.py` finds out which of them predicts best:

    own      each family has exponents of its own
    prior    the same, and log α and log β have a normal prior around 0.34 and 0.28 (Hoffmann et al. 2022, appendix D)
    shared   all families have the same exponents, with this prior
    coupled  as prior, with another way to combine the two terms: E + ((A / N^α)^1/β + (B / D^β)^1/β)^β, which is
             equation 1.5 of Kaplan et al. 2020 ("Scaling Laws for Neural Language Models") and a floor E. The larger
             term counts for more than in the sum, so a larger model is of use only after enough tokens
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Form = Literal["own", "prior", "shared", "coupled"]
FORMS: tuple[Form, ...] = get_args(Form)
PARAMETERS: dict[Form, int] = {"own": 5, "prior": 4, "shared": 4, "coupled": 4}
"""Numbers that are fitted: E, A and B, and two exponents, which count as one where they have a prior."""
DELTA = 0.003
"""Relative residual from which on Huber's loss is linear."""
_PRIOR = np.log([0.34, 0.28])
_PRIOR_WIDTH = 0.4  # of the logarithms
_LUCK = 0.005  # relative residual that is as unlikely as one width of the prior
_EXPONENTS = (0.05, 2.0)
_SHARES = 9.0  # the logit of κ lies within plus and minus this
_GRID = (9, 9, 7)  # values of α, β and the logit of κ that the search starts with
_ROUNDS = 12  # of reweighting, at most
_STEPS = 60  # of Levenberg-Marquardt, at most
_DIFFERENCE = 1e-6  # for derivatives


@dataclass(frozen=True)
class Laws:
    """T laws at once: e, a, b, alpha, beta, each float64 [T]. Losses are in the unit of those that were fitted.

    power: p of E + ((A / N^α)^p + (B / D^β)^p)^(1/p), float64 [T]; 1 for the sum.
    """

    e: Floats
    a: Floats
    b: Floats
    alpha: Floats
    beta: Floats
    power: Floats

    def loss(self, n: Floats | float, d: Floats | float) -> Floats:
        """The loss of a model of size n after d tokens; n and d broadcast against [T]."""
        with np.errstate(divide="ignore"):  # a term that is zero
            terms = [np.log(self.a) - self.alpha * np.log(n), np.log(self.b) - self.beta * np.log(d)]
        found: Floats = self.e + np.exp(np.logaddexp(*(self.power * term for term in terms)) / self.power)
        return found


@dataclass(frozen=True)
class Runs:
    """The R runs of a family: T sets of losses, sizes and tokens. weights_TR: of the residuals, if they are known."""

    losses_TR: Floats
    n_R: Floats
    d_R: Floats
    weights_TR: Floats | None = None


def fit(families: Sequence[Runs], form: Form = "own") -> list[Laws]:
    """The laws of families, each with T sets of losses."""
    if form != "shared" and len(families) > 1:
        return [fit([each], form)[0] for each in families]
    problem = _Problem(families, form)
    theta_TP = _minimised(problem, _best_on_grid(problem))
    if families[0].weights_TR is None:
        for _ in range(_ROUNDS):
            before, problem.weights = problem.weights, [huber_weights(each) for each in problem.residuals(theta_TP)]
            if all(np.allclose(*each, rtol=1e-3) for each in zip(before, problem.weights, strict=True)):
                break
            theta_TP = _minimised(problem, theta_TP)
    return [problem.laws(theta_TP, number) for number in range(len(families))]


def huber_weights(residuals: Floats) -> Floats:
    """The weights with which squares of these residuals have the slope of Huber's loss."""
    found: Floats = np.minimum(1.0, DELTA / np.maximum(abs(residuals), 1e-300))
    return found


class _Problem:
    """The search for θ = (log α, log β, logit κ of each family), float64 [..., P]."""

    def __init__(self, families: Sequence[Runs], form: Form) -> None:
        self.form, self.families = form, families
        self.weights = [np.ones_like(each.losses_TR) if each.weights_TR is None else each.weights_TR
                        for each in families]  # fmt: skip
        logs = [np.log(np.concatenate(each)) for each in zip(*((runs.n_R, runs.d_R) for runs in families), strict=True)]
        self.centre_2 = [float(each.mean()) for each in logs]
        low, high = np.log(_EXPONENTS)
        self.low_P = np.array([low, low, *[-_SHARES] * len(families)])
        self.high_P = np.array([high, high, *[_SHARES] * len(families)])

    def shape(self, theta: Floats, number: int) -> Floats:
        """The part of the law of a family that S is multiplied with, [..., R]."""
        runs = self.families[number]
        alpha, beta = np.exp(theta[..., 0, None]), np.exp(theta[..., 1, None])
        power, share = self.power(beta), theta[..., 2 + number, None]
        n = -np.logaddexp(0.0, -share) - power * alpha * (np.log(runs.n_R) - self.centre_2[0])
        d = -np.logaddexp(0.0, share) - power * beta * (np.log(runs.d_R) - self.centre_2[1])
        found: Floats = np.exp(np.logaddexp(n, d) / power)
        return found

    def power(self, beta: Floats) -> Floats:
        """1 for the sum, 1/β for Kaplan's form."""
        found: Floats = 1 / beta if self.form == "coupled" else np.ones_like(beta)
        return found

    def solved(self, theta: Floats, number: int) -> tuple[Floats, Floats, Floats]:
        """E and S ≥ 0 with the least weighted squares [...], and the residuals [..., R]; θ is [T, P] or [T, K, P]."""
        losses, weights = (
            each.reshape(each.shape[0], *[1] * (theta.ndim - 2), -1)
            for each in (self.families[number].losses_TR, self.weights[number])
        )
        floor, column = 1 / losses, self.shape(theta, number) / losses
        ff, fc, cc = ((weights * one * other).sum(-1) for one, other in
                      ((floor, floor), (floor, column), (column, column)))  # fmt: skip
        f, c = (weights * floor).sum(-1), (weights * column).sum(-1)
        determinant = np.maximum(ff * cc - fc**2, 1e-13 * ff * cc)
        e, s = (cc * f - fc * c) / determinant, (ff * c - fc * f) / determinant
        e, s = np.where(s < 0, f / ff, e), np.where(s < 0, 0.0, s)
        e, s = np.where(e < 0, 0.0, e), np.where(e < 0, c / cc, s)
        return e, s, e[..., None] * floor + s[..., None] * column - 1

    def residuals(self, theta: Floats) -> list[Floats]:
        """Those of each family."""
        return [self.solved(theta, number)[2] for number in range(len(self.families))]

    def prior(self, theta: Floats) -> Floats:
        """The residuals of the exponents, [..., 2]."""
        found: Floats = (theta[..., :2] - _PRIOR) * (_LUCK / _PRIOR_WIDTH) * (self.form != "own")
        return found

    def vector(self, theta_TP: Floats) -> Floats:
        """All residuals, of which the sum of squares is minimised, [T, M]."""
        parts = [np.sqrt(weights) * each for weights, each in zip(self.weights, self.residuals(theta_TP), strict=True)]
        return np.concatenate([*parts, self.prior(theta_TP)], axis=-1)

    def laws(self, theta_TP: Floats, number: int) -> Laws:
        """The laws of a family."""
        e, s, _ = self.solved(theta_TP, number)
        alpha, beta = np.exp(theta_TP[:, 0]), np.exp(theta_TP[:, 1])
        power, share = self.power(beta), theta_TP[:, 2 + number]
        a = s * np.exp(-np.logaddexp(0.0, -share) / power + alpha * self.centre_2[0])
        b = s * np.exp(-np.logaddexp(0.0, share) / power + beta * self.centre_2[1])
        return Laws(e, a, b, alpha, beta, power)


def _best_on_grid(problem: _Problem) -> Floats:
    """The point of the grid with the least squares for each set of losses, [T, P]."""
    low, high = problem.low_P[:3], problem.high_P[:3]
    lines = [np.linspace(*each) for each in zip(low, high, _GRID, strict=True)]
    pairs, shares = np.array(list(product(*lines[:2]))), lines[2]
    count, families = len(problem.families[0].losses_TR), len(problem.families)
    best = [(np.full((count,), np.inf), np.zeros((count, 2 + families)))]
    for pair in pairs:
        theta = np.empty((1, len(shares), 2 + families))
        theta[..., :2], theta[..., 2:] = pair, shares[:, None]
        score_T = (problem.prior(theta)[0, 0] ** 2).sum() * np.ones(count)
        point_TP = np.empty((count, 2 + families))
        point_TP[:, :2] = pair
        for number in range(families):
            squares_TK = (problem.weights[number][:, None] * problem.solved(theta, number)[2] ** 2).sum(-1)
            point_TP[:, 2 + number], score_T = shares[squares_TK.argmin(1)], score_T + squares_TK.min(1)
        old_T, old_TP = best[0]
        better = score_T < old_T
        best[0] = np.where(better, score_T, old_T), np.where(better[:, None], point_TP, old_TP)
    return best[0][1]


def _minimised(problem: _Problem, theta_TP: Floats) -> Floats:
    """θ with the least squares near a start: Levenberg-Marquardt, of all sets at once."""
    count, size = theta_TP.shape
    function: Callable[[Floats], Floats] = problem.vector
    residuals_TM, damping_T = function(theta_TP), np.full(count, 1e-2)
    squares_T, is_done_T = (residuals_TM**2).sum(1), np.zeros(count, bool)
    for _ in range(_STEPS):
        moves = np.where(theta_TP + _DIFFERENCE > problem.high_P, -_DIFFERENCE, _DIFFERENCE)
        slopes_TMP = np.stack(
            [(function(theta_TP + moves * (np.arange(size) == at)) - residuals_TM) / moves[:, at, None]
             for at in range(size)], axis=-1
        )  # fmt: skip
        gram = slopes_TMP.swapaxes(1, 2) @ slopes_TMP
        diagonal = np.einsum("tpp->tp", gram) + 1e-12
        damped = gram + (damping_T[:, None] * diagonal)[..., None] * np.eye(size)
        step = np.linalg.solve(damped, -(slopes_TMP.swapaxes(1, 2) @ residuals_TM[..., None]))[..., 0]
        new_TP = (theta_TP + step.clip(-1, 1)).clip(problem.low_P, problem.high_P)
        new_TM = function(new_TP)
        new_T = (new_TM**2).sum(1)
        better = new_T < squares_T
        is_done_T |= (damping_T > 1e7) | (better & (squares_T - new_T <= 1e-7 * squares_T)) | (squares_T < 1e-24)
        theta_TP = np.where(better[:, None], new_TP, theta_TP)
        residuals_TM, squares_T = np.where(better[:, None], new_TM, residuals_TM), np.where(better, new_T, squares_T)
        damping_T = np.where(better, damping_T / 5, damping_T * 5).clip(1e-9, 1e9)
        if is_done_T.all():
            break
    return theta_TP
