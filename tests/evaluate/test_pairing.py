"""Paired differences: exact in value, with an error that is that of the difference and not of the values."""

import math
from itertools import pairwise

import numpy as np
import pytest

from seedfast.evaluate.pairing import Cut, Scored, blocks, difference, independent, shared_out
from seedfast.loop.standard_error import block_count

BYTES = 6000


def texts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The nats of each byte of a text under two models: its difficulty is common, each model's own part is small."""
    draw = np.random.default_rng(seed)
    difficulty = np.repeat(draw.gamma(2.0, 1.0, BYTES // 20), 20)
    one, other = (difficulty + draw.normal(mean, 0.3, BYTES) for mean in (0.5, 0.3))
    return one, other


def scored(nats: np.ndarray, sizes: np.ndarray, chosen: np.ndarray | None = None, *, ordered: bool = True) -> Scored:
    edges = np.concatenate([[0], np.cumsum(sizes)])
    totals = np.array([nats[a:b].sum() for a, b in pairwise(edges)])
    numbers = np.arange(len(sizes)) if chosen is None else chosen
    documents = np.zeros(len(sizes), np.int64) if ordered else None
    return Scored(totals[numbers], numbers, Cut(sizes, documents))


def windows(size: int) -> np.ndarray:
    return np.full(BYTES // size, size, np.int64)


def ragged(seed: int) -> np.ndarray:
    """Windows of another tokenizer: of different sizes, and two without any byte."""
    cuts = np.random.default_rng(seed).choice(np.arange(1, BYTES), BYTES // 40 - 1, replace=False)
    return np.diff(np.sort(np.concatenate([[0, BYTES, BYTES, cuts[0]], cuts])))


def value_alone(nats: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """A value per byte with its own error, over windows."""
    totals = scored(nats, sizes).totals_N
    residuals = totals - nats.mean() * sizes
    return float(nats.mean()), math.sqrt(float((residuals**2).sum()) * len(sizes) / (len(sizes) - 1)) / BYTES


SAME = windows(40)


@pytest.mark.parametrize("other_cut", [SAME, windows(24), ragged(1)], ids=["same", "others", "ragged"])
def test_the_error_is_that_of_the_difference(other_cut: np.ndarray) -> None:
    found = []
    for seed in range(120):
        one, other = texts(seed)
        paired = difference(scored(one, windows(40)), scored(other, other_cut))
        assert paired is not None
        assert paired.value == pytest.approx((one.sum() - other.sum()) / BYTES), "every byte counts once"
        found.append(paired)
    scatter = np.std([each.value for each in found], ddof=1)
    claimed = np.mean([each.standard_error for each in found])
    assert 0.8 * scatter < claimed < (1.2 if other_cut is SAME else 3.0) * scatter
    assert {(each.parts, each.count) for each in found} == {("blocks", block_count(min(150, len(other_cut))))}
    one, other = texts(0)
    twin = independent(value_alone(one, windows(40)), value_alone(other, windows(40)))
    assert twin.standard_error > 5 * scatter, "errors of the values know nothing of what the texts have in common"


def test_windows_that_only_one_model_is_scored_on_are_left_out() -> None:
    one, other = texts(0)
    some, more = np.array([1, 4, 7, 9]), np.array([0, 4, 7, 8, 9])
    found = difference(scored(one, windows(40), some), scored(other, windows(40), more))
    assert found is not None
    assert (found.parts, found.count) == ("blocks", 3)
    both = np.concatenate([np.arange(40 * w, 40 * w + 40) for w in (4, 7, 9)])
    assert found.value == pytest.approx((one - other)[both].mean())


def test_what_cannot_be_paired_is_not() -> None:
    one, other = texts(0)
    assert difference(scored(one, windows(40), np.array([1, 4])), scored(other, windows(24))) is None
    assert difference(scored(one, windows(40), ordered=False), scored(other, windows(24), ordered=False)) is None
    assert difference(scored(one, windows(40), np.array([1])), scored(other, windows(40), np.array([1]))) is None
    packed = [Scored(np.ones(3), np.arange(3), Cut(np.ones(3, np.int64), None, each)) for each in (b"a", b"b")]
    assert difference(*packed) is None, "equal sizes of other examples"


def test_windows_are_shared_out_by_their_bytes() -> None:
    totals, sizes = np.array([4.0, 7.0, 2.0, 6.0]), np.array([4, 0, 2, 6])
    parts = shared_out(totals, sizes, np.array([0.0, 3.0, 6.0, 12.0]))
    assert parts.tolist() == [3.0, 1.0 + 7.0 + 2.0, 6.0]
    assert parts.sum() == totals.sum()


def test_blocks_lie_between_edges_of_both() -> None:
    def bounds(one: np.ndarray, other: np.ndarray) -> list[float]:
        return blocks(*(Cut(each, np.zeros(len(each), np.int64)) for each in (one, other))).tolist()

    assert bounds(windows(40), ragged(2))[-1] == BYTES
    assert len(bounds(windows(40), ragged(2))) - 1 == 12, "the root of 150 windows"
    assert set(bounds(windows(40), windows(24))) <= set(range(0, BYTES + 1, 120))
