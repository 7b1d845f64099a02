"""The law of sizes and tokens against known ones, and the coverage of its bands."""

import numpy as np
import pytest

from seedfast.errors import UserError
from seedfast.evaluate.pairing import Cut
from seedfast.scaling.choice import choose, smaller
from seedfast.scaling.draws import FittedLaw, Miss, Sample, band, fitted, other_texts
from seedfast.scaling.law import Floats, Form, Laws, Runs, fit

SIZES = np.repeat([3e4, 9e4, 2.4e5], 3)
TOKENS = np.tile([1e5, 2e5, 4e5], 3)
AT = (5e5, 8e5)
"""A run with four times the FLOPs of the largest."""


def law(n: Floats | float, d: Floats | float) -> Floats | float:
    return 1.2 + 40 * n**-0.4 + 900 * d**-0.55


LOSSES = np.asarray(law(SIZES, TOKENS))


def without_a_floor(losses: Floats, at: tuple[float, float]) -> float:
    """The broken twin: log L is linear in log N and log D, as if E were 0."""
    columns = np.stack([np.ones_like(SIZES), np.log(SIZES), np.log(TOKENS)], axis=1)
    values = np.linalg.lstsq(columns, np.log(losses), rcond=None)[0]
    return float(np.exp(values @ [1.0, *np.log(at)]))


def parabola(losses: Floats, at: tuple[float, float]) -> float:
    """The other twin: log L is a polynomial of degree two, which turns upwards beyond the runs."""

    def terms(n: Floats, d: Floats) -> Floats:
        x, y = np.log(n), np.log(d)
        return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)

    values = np.linalg.lstsq(terms(SIZES, TOKENS), np.log(losses), rcond=None)[0]
    return float(np.exp(terms(*np.array(at)) @ values))


def fitted_law(losses: Floats, form: Form = "own") -> Laws:
    return fit([Runs(losses[None], SIZES, TOKENS)], form)[0]


def sample(losses: Floats, name: str = "simulated") -> Sample:
    return Sample(name, losses, SIZES, TOKENS)


def coupled(n: Floats | float, d: Floats | float) -> Floats | float:
    """Equation 1.5 of Kaplan et al. 2020, and a floor."""
    return 1.2 + ((40 * n**-0.3) ** (1 / 0.3) + (40 * d**-0.3) ** (1 / 0.3)) ** 0.3


def test_the_fit_finds_the_law_that_made_the_losses() -> None:
    found = fitted_law(LOSSES)
    for value, known in zip(
        (found.e, found.a, found.b, found.alpha, found.beta), (1.2, 40, 900, 0.4, 0.55), strict=True
    ):
        assert value[0] == pytest.approx(known, rel=1e-3)
    known = law(*AT)
    assert found.loss(*AT)[0] == pytest.approx(known, rel=1e-5)
    assert abs(without_a_floor(LOSSES, AT) / known - 1) > 3e-3
    assert abs(parabola(LOSSES, AT) / known - 1) > 1e-3


def test_the_coupled_law_is_found_where_it_made_the_losses() -> None:
    losses = np.asarray(coupled(SIZES, TOKENS))
    assert fitted_law(losses, "coupled").loss(*AT)[0] == pytest.approx(coupled(*AT), rel=1e-3)
    assert abs(fitted_law(losses).loss(*AT)[0] / coupled(*AT) - 1) > 2e-3, "the sum"


def test_no_term_is_negative() -> None:
    found = fitted_law(np.asarray(law(SIZES, TOKENS)) - 1.5)  # its E would be -0.3
    assert found.e[0] == 0
    assert found.a[0] > 0
    only_tokens = fitted_law(1.0 + 900 * TOKENS**-0.55)
    assert only_tokens.loss(1e9, 4e5)[0] == pytest.approx(1.0 + 900 * 4e5**-0.55, rel=1e-3), "size is of no use"


def test_one_diverged_run_does_not_bend_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = LOSSES.copy()
    losses[4] *= 1.3
    assert fitted_law(losses).loss(*AT)[0] == pytest.approx(law(*AT), rel=0.01)
    monkeypatch.setattr("seedfast.scaling.law.DELTA", 1e9)  # least squares
    assert abs(fitted_law(losses).loss(*AT)[0] / law(*AT) - 1) > 0.02


def test_many_fits_at_once_are_the_fits_one_by_one() -> None:
    many = np.stack([LOSSES, LOSSES * (1 + 0.01 * np.cos(np.arange(9)))])
    together = fit([Runs(many, SIZES, TOKENS)])[0]
    for number in range(2):
        assert together.loss(*AT)[number] == pytest.approx(fitted_law(many[number]).loss(*AT)[0], rel=1e-6)


def test_a_shared_law_has_the_same_exponents_and_other_numbers() -> None:
    one, other = fit([Runs(LOSSES[None], SIZES, TOKENS), Runs(2 * LOSSES[None], SIZES, TOKENS)], "shared")
    assert one.alpha == other.alpha
    assert one.beta == other.beta
    assert other.e == pytest.approx(2 * one.e, rel=1e-3)


def test_the_form_that_predicts_larger_runs_is_chosen() -> None:
    luck = 1 + 0.001 * np.cos(7 * np.arange(9))
    for losses, form in ((np.asarray(coupled(SIZES, TOKENS)), "coupled"), (LOSSES, "own")):
        choice = choose([sample(losses * luck)])
        assert choice.form == form
        assert choice.miss.size == min(miss.size for miss in choice.misses.values())
        assert choice.miss.size < 0.01
    assert [int(each) for each in smaller(sample(LOSSES))] == [0, 1, 2, 3, 4, 6]
    assert "shared" in choose([sample(LOSSES * luck), sample(LOSSES, "other")]).misses
    with pytest.raises(UserError, match="needs 6 runs"):
        choose([sample(LOSSES).part([0, 1, 2, 3])])


def test_the_band_holds_a_new_run_as_often_as_it_states() -> None:
    """Of ninety percent bands of simulated studies, about nine in ten hold the new run; those of a tenth as much
    luck do not."""
    random = np.random.default_rng(7)
    held, narrow = 0, 0
    for number in range(16):
        losses = LOSSES * (1 + 0.004 * random.standard_normal(9))
        measured = law(*AT) * (1 + 0.004 * random.standard_normal())
        point, drawn = fitted([sample(losses)], seed=number, count=50)[0].predict(*AT, of="check")
        low, high = band(drawn)
        held += low <= measured <= high
        narrow += abs(measured - point) <= 0.1 * (high - low) / 2
    assert 12 <= held <= 16
    assert narrow < 8


def test_a_law_that_missed_has_a_wide_band_beyond_its_runs_alone() -> None:
    sure, unsure = (fitted([sample(LOSSES)], seed=1, miss=miss, count=100)[0] for miss in (Miss(), Miss(0.05, 9)))
    inside, beyond = (3e4, 1e5), (2e6, 8e5)

    def width(each: FittedLaw, at: tuple[float, float]) -> float:
        low, high = band(each.predict(*at, of="check")[1])
        return (high - low) / 2 / float(law(*at))

    assert width(unsure, inside) == pytest.approx(width(sure, inside))
    times = np.log(2e6 * 8e5 / (2.4e5 * 4e5)) / np.log(4)
    assert width(unsure, beyond) == pytest.approx(1.645 * 0.05 * times, rel=0.35)
    assert width(sure, beyond) < 1e-3


def test_draws_are_keyed() -> None:
    losses = LOSSES * (1 + 0.004 * np.cos(5 * np.arange(9)))
    one, same, other = (fitted([sample(losses)], seed=seed, count=20)[0] for seed in (1, 1, 2))
    assert np.array_equal(one.draws.e, same.draws.e)
    assert not np.array_equal(one.draws.e, other.draws.e)


def test_five_numbers_need_six_runs() -> None:
    with pytest.raises(UserError, match="needs 6 runs at least, and masked has 5"):
        fitted([sample(LOSSES, "masked").part(range(5))], seed=1)


def test_other_texts_move_all_runs_together() -> None:
    sizes = np.full(400, 10)
    hard = np.random.default_rng(1).gamma(4.0, size=400)
    drawn = other_texts([20 * hard, 30 * hard], [Cut(sizes)] * 2, seed=1, count=300)
    assert drawn is not None
    assert drawn[:, 0] == pytest.approx(drawn[:, 1]), "what is hard for both cancels"
    assert drawn[:, 0].mean() == pytest.approx(1, abs=0.01)
    assert drawn[:, 0].std() == pytest.approx((hard / hard.mean() - 1).std() / 20, rel=0.2), "the standard error"


def test_windows_of_one_document_move_in_blocks() -> None:
    hard = np.repeat(np.random.default_rng(1).gamma(4.0, size=20), 20)
    one_document, apart = (
        other_texts([hard, hard], [Cut(np.full(400, 10), documents)] * 2, seed=1, count=300)
        for documents in (np.zeros(400, np.int64), None)
    )
    assert one_document is not None
    assert apart is not None
    assert one_document[:, 0].std() == pytest.approx(20**0.5 * apart[:, 0].std(), rel=0.25)


def test_windows_of_two_kinds_are_cut_into_common_blocks() -> None:
    totals = [np.ones(400), np.full(200, 2.0)]
    cuts = [Cut(np.full(count, 4000 // count), np.zeros(count, np.int64)) for count in (400, 200)]
    drawn = other_texts(totals, cuts, seed=1, count=10)
    assert drawn is not None
    assert drawn == pytest.approx(np.ones((10, 2)))
    assert other_texts(totals, [Cut(np.full(400, 10), contents=b"a"), cuts[1]], seed=1) is None
