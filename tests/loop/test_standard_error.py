"""Standard errors that hold where neighbouring windows are alike: simulated losses whose variance has a closed form."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from seedfast.data.joined_dataset import JoinedDataset
from seedfast.data.text.windows import DocumentWindows, Windows
from seedfast.loop.standard_error import (
    Ratio,
    block_count,
    blocks_of,
    document_numbers,
    error_of_difference,
    ratio_of_sums,
)

SIZE, SEEDS = 1200, 400
WITHIN = 2.045
"""97.5 % of Student's t with 29 degrees of freedom, those of 30 blocks."""
ONE_DOCUMENT = np.zeros(SIZE, np.int64)

Losses = Callable[[np.random.Generator], np.ndarray]
"""Draws the losses of SIZE windows, of mean 0, for each of SEEDS simulations."""


def ratio(losses: np.ndarray, documents: np.ndarray | None) -> Ratio:
    return ratio_of_sums(torch.from_numpy(losses), torch.ones(len(losses), dtype=torch.float64), documents)


def simulated(losses: Losses, documents: np.ndarray | None) -> tuple[float, float]:
    """The part of simulations whose value is within the interval of its error, and the mean square of the error."""
    found = [ratio(each, documents) for each in losses(np.random.default_rng(0))]
    coverage = np.mean([abs(each.value) < WITHIN * each.standard_error for each in found])
    return float(coverage), float(np.mean([each.standard_error**2 for each in found]))


def autoregressive(phi: float, noise: float = 0.0) -> Losses:
    """A stationary AR(1) sequence of variance 1; noise: the variance of what each loss was drawn with."""

    def losses(draw: np.random.Generator) -> np.ndarray:
        values = draw.normal(size=(SEEDS, SIZE))
        for i in range(1, SIZE):
            values[:, i] = phi * values[:, i - 1] + math.sqrt(1 - phi**2) * values[:, i]
        return values + math.sqrt(noise) * draw.normal(size=(SEEDS, SIZE))

    return losses


def variance_of_mean(phi: float, noise: float = 0.0) -> float:
    """(1 + 2 Σ_{k<n} (1 - k/n) φ^k + noise) / n."""
    lags = np.arange(1, SIZE)
    return float(1 + 2 * ((1 - lags / SIZE) * phi**lags).sum() + noise) / SIZE


@pytest.mark.parametrize(("phi", "noise"), [(0.0, 0.0), (0.5, 0.0), (0.5, 4.0), (0.8, 0.0)])
def test_blocks_of_one_long_document_have_the_closed_form(phi: float, noise: float) -> None:
    coverage, square = simulated(autoregressive(phi, noise), ONE_DOCUMENT)
    assert 0.8 < square / variance_of_mean(phi, noise) < 1.1
    assert 0.92 < coverage < 0.98


def test_independent_windows_are_the_broken_twin() -> None:
    coverage, square = simulated(autoregressive(0.8), None)
    assert square < 0.2 * variance_of_mean(0.8)
    assert coverage < 0.7


def test_documents_that_differ_are_the_blocks() -> None:
    """40 documents of unequal length, each harder or easier than the others."""
    sizes = np.random.default_rng(0).multinomial(SIZE - 400, np.full(40, 1 / 40)) + 10
    documents = np.repeat(np.arange(40), sizes)

    def losses(draw: np.random.Generator) -> np.ndarray:
        return draw.normal(size=(SEEDS, 40))[:, documents] + draw.normal(size=(SEEDS, SIZE))

    variance = float((sizes**2).sum() / SIZE + 1) / SIZE
    coverage, square = simulated(losses, documents)
    assert 0.85 < square / variance < 1.15
    assert 0.92 < coverage < 0.98
    assert simulated(losses, None)[0] < 0.65


def test_a_value_does_not_depend_on_its_blocks() -> None:
    draw = np.random.default_rng(1)
    totals, weights = torch.from_numpy(draw.normal(size=SIZE)), torch.from_numpy(draw.integers(1, 9, SIZE) * 1.0)
    found, alone = ratio_of_sums(totals, weights, ONE_DOCUMENT), ratio_of_sums(totals, weights)
    assert found.value == alone.value == float(totals.sum()) / float(weights.sum())
    assert (found.blocks, alone.blocks) == (30, None)
    block = blocks_of(ONE_DOCUMENT)
    parts = [totals[block == g].sum() - found.value * weights[block == g].sum() for g in range(30)]
    assert found.standard_error == pytest.approx(math.sqrt(30 / 29 * float(sum(p**2 for p in parts))) / weights.sum())
    assert math.isnan(ratio_of_sums(totals[:1], weights[:1], ONE_DOCUMENT[:1]).standard_error)


@pytest.mark.parametrize("slope", [0.8, -0.8])
@pytest.mark.parametrize("documents", [None, ONE_DOCUMENT])
def test_the_error_of_a_difference_pairs_the_examples_of_both(slope: float, documents: np.ndarray | None) -> None:
    """The losses of all windows, minus what a quarter of them was measured to differ by, which is `slope` of its loss:
    the variance is (1 - 2 slope + 4 slope²) / n. Twin: the sum of both squared errors, without - 2 slope."""
    draw, part, ones = np.random.default_rng(0), SIZE // 4, torch.ones(SIZE, dtype=torch.float64)
    variance = (1 - 2 * slope + 4 * slope**2) / SIZE
    squares, apart, inside = list[float](), list[float](), 0
    for _ in range(SEEDS // 2):
        losses = torch.from_numpy(draw.normal(size=SIZE))
        chosen = torch.from_numpy(np.sort(draw.permutation(SIZE)[:part]))
        few = slope * losses[chosen]
        error = error_of_difference((losses, ones), (few, ones[:part]), chosen, documents)
        inside += abs(float(losses.mean() - few.mean())) < WITHIN * error
        squares.append(error**2)
        own = ratio_of_sums(few, ones[:part], None if documents is None else documents[chosen])
        apart.append(ratio_of_sums(losses, ones, documents).standard_error ** 2 + own.standard_error**2)
    assert 0.9 < np.mean(squares) / variance < 1.1
    assert 0.92 < inside / len(squares) < 0.98
    assert not 0.8 < np.mean(apart) / variance < 1.25


def test_the_error_of_a_difference_that_has_no_spread_is_that_of_the_whole() -> None:
    losses, ones = torch.from_numpy(np.random.default_rng(2).normal(size=SIZE)), torch.ones(SIZE, dtype=torch.float64)
    chosen = torch.arange(0, SIZE, 100)
    flat = (torch.full((12,), 3.0, dtype=torch.float64), ones[:12])
    found = error_of_difference((losses, ones), flat, chosen, ONE_DOCUMENT)
    assert found == pytest.approx(ratio_of_sums(losses, ones, ONE_DOCUMENT).standard_error)
    assert error_of_difference((losses, ones), (losses, ones), torch.arange(SIZE), ONE_DOCUMENT) == 0
    assert math.isnan(error_of_difference((losses, ones), flat, torch.arange(12), ONE_DOCUMENT)), "in one block"


def test_blocks_are_ten_to_thirty_of_equal_length() -> None:
    assert [block_count(size) for size in (1, 9, 20, 100, 400, 900, 10**6)] == [1, 9, 10, 10, 20, 30, 30]
    for size in (1, 2, 9, 10, 19, 23, 150, 907):
        lengths = np.bincount(blocks_of(np.zeros(size, np.int64)))
        assert len(lengths) == block_count(size)
        assert lengths.max() - lengths.min() <= 1


def test_a_block_ends_with_a_document_that_ends_nearby() -> None:
    documents = np.repeat(np.arange(9), [90, 110, 130, 70, 98, 102, 110, 90, 100])
    block = blocks_of(documents)
    edges = np.flatnonzero(np.diff(documents)) + 1
    assert set(edges) <= set(np.flatnonzero(np.diff(block)) + 1)
    assert block[-1] == 29


def test_windows_know_their_documents() -> None:
    tokens = np.array([9, 1, 1, 1, 9, 2, 2, 2, 2, 2, 2, 9, 3, 9], np.uint16)  # three documents that end with 9
    packed, apart = Windows(tokens, 4, end_of_text=9), DocumentWindows(tokens, 4, end_of_text=9)
    assert numbers(packed) == [0, 1, 1, 2]
    assert numbers(apart) == [0, 1, 1, 2]
    assert numbers(JoinedDataset([packed, apart])) == [0, 1, 1, 2, 3, 4, 4, 5]
    assert numbers(Windows(tokens, 4)) == [0, 0, 0, 0], "without an end of text there is one document"


def numbers(dataset: Windows | JoinedDataset) -> list[int]:
    found = document_numbers(dataset, range(len(dataset)))
    assert found is not None
    return found.tolist()
