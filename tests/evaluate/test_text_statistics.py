"""Text statistics: closed forms, bounds, and what must not change them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedfast.evaluate.text_statistics import distinct, entropy, repetition, statistics

texts = st.lists(st.lists(st.integers(0, 5), max_size=30), max_size=5)


def test_closed_forms() -> None:
    loop, fresh = [1, 2] * 10, list(range(20))
    assert distinct([loop], 1) == 2 / 20
    assert distinct([loop, loop], 2) == 2 / 38, "all texts together"
    assert distinct([fresh], 3) == 1
    assert repetition([loop], 4) == pytest.approx(1 - 2 / 17)
    assert repetition([fresh, fresh], 4) == 0, "only a text's own repeats count"
    assert entropy([loop]) == pytest.approx(math.log(2))
    assert entropy([fresh, fresh]) == pytest.approx(math.log(20))
    assert entropy([[7] * 9]) == 0


def test_a_sum_over_a_sum_and_not_a_mean_of_means() -> None:
    long, short = [1] * 13, list(range(4))
    assert repetition([long, short], 4) == pytest.approx(9 / 11)
    mean_of_means = (repetition([long], 4) + repetition([short], 4)) / 2
    assert repetition([long, short], 4) != pytest.approx(mean_of_means)
    assert entropy([long, short]) == pytest.approx(4 * math.log(4) / 17)


def test_text_that_is_too_short_has_no_value() -> None:
    assert math.isnan(repetition([[1, 2, 3]], 4))
    assert math.isnan(distinct([], 1))
    assert math.isnan(entropy([[]]))
    assert statistics([[1, 2]]) == {"distinct_1": 1.0, "distinct_2": 1.0, "entropy": pytest.approx(math.log(2))}


@given(texts, st.integers(1, 4))
def test_laws(some: list[list[int]], n: int) -> None:
    renamed = [[token * 3 + 1 for token in text] for text in some]
    values = statistics(some)
    assert statistics(renamed) == values, "names of tokens do not matter"
    assert statistics(some[::-1]) == pytest.approx(values), "nor does the order of texts"
    if some and any(len(text) >= n for text in some):
        assert 0 < distinct(some, n) <= 1
        assert 0 <= repetition(some, n) < 1
        assert distinct(some, n) <= 1 - repetition(some, n) + 1e-12, "repeats inside a text are repeats"
        assert distinct([*some, *some], n) == pytest.approx(distinct(some, n) / 2)
        assert -1e-12 <= entropy(some) <= math.log(max(map(len, some))) + 1e-12
