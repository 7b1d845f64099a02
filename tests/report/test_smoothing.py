"""Smoothing: buckets and running centres keep extremes, weighted means and the shape of the smoothed."""

import numpy as np
import pytest

from seedfast.report import smoothing
from seedfast.report.format import duration, measured, size


def steps(count: int) -> np.ndarray:
    return np.arange(1.0, count + 1)


def test_a_few_steps_are_not_smoothed() -> None:
    smoothed = smoothing.by_mean(steps(10), steps(10) ** 2)
    assert smoothed is not None
    assert smoothed.single
    np.testing.assert_array_equal(smoothed.smooth, steps(10) ** 2)


def test_a_million_steps_keep_their_extremes_and_their_weighted_mean() -> None:
    count = 1_000_000
    generator = np.random.default_rng(1)
    values, weights = generator.normal(3.0, 0.1, count), generator.uniform(1, 2, count)
    values[123_456], values[765_432] = 50.0, -50.0
    smoothed = smoothing.by_mean(steps(count), values, weights)
    assert smoothed is not None
    assert len(smoothed.steps) == 1000
    assert not smoothed.single
    assert (smoothed.high.max(), smoothed.low.min()) == (50.0, -50.0)
    at = int(np.argmax(smoothed.high))
    assert abs(smoothed.steps[at] - 123_456) < 1000
    assert smoothed.smooth[500] == pytest.approx(3.0, abs=0.01)


def test_the_mean_weighs_each_step_by_its_weight() -> None:
    values, weights = np.tile([1.0, 2.0], 500), np.tile([3.0, 1.0], 500)
    smoothed = smoothing.by_mean(steps(1000), values, weights)
    assert smoothed is not None
    assert smoothed.smooth[500] == pytest.approx(1.25, abs=0.03)


def test_steps_without_a_finite_value_are_left_out() -> None:
    values = np.full(300, 2.0)
    values[[0, 7, 299]] = np.nan, np.inf, np.nan
    smoothed = smoothing.by_mean(steps(300), values)
    assert smoothed is not None
    assert len(smoothed.steps) == 297
    assert set(smoothed.smooth) == {2.0}
    assert smoothing.by_mean(steps(3), np.full(3, np.nan)) is None
    assert smoothing.by_median(np.array([]), np.array([])) is None


def test_an_outlier_does_not_move_the_running_median() -> None:
    values = np.full(600, 10.0)
    values[300] = 1e9
    smoothed = smoothing.by_median(steps(600), values)
    assert smoothed is not None
    assert set(smoothed.smooth) == {10.0}


def test_a_steep_start_is_not_mixed_with_later_steps() -> None:
    values = 10 * np.exp(-steps(600) / 5) + 1
    smoothed = smoothing.by_mean(steps(600), values)
    assert smoothed is not None
    assert smoothed.smooth[0] > 0.9 * values[0]


@pytest.mark.parametrize(("value", "error", "text"), [
    (1.63249, 0.0123, "1.632 ± 0.012"),
    (1234.5, 30.0, "1,234 ± 30"),
    (2.0, 0.0, "2"),
    (2.5, float("nan"), "2.5"),
    (2.5, None, "2.5"),
    (float("inf"), 1.0, "not finite"),
])  # fmt: skip
def test_a_measurement_shows_two_digits_of_its_error(value: float, error: float | None, text: str) -> None:
    assert measured(value, error) == text


def test_durations_and_sizes_have_fitting_units() -> None:
    assert [duration(s) for s in (0.8234, 247, 5000, 200_000)] == ["0.823 s", "4 min 7 s", "1 h 23 min", "2 d 7 h"]
    assert [size(n) for n in (999, 15_300_000, 2.5e12)] == ["999 bytes", "15.3 MB", "2.5 TB"]
