"""Metrics of a set of captions with their standard errors, and the nearest picture."""

import math

import numpy as np
import pytest

from seedfast.data.caption.dataset import Captions
from seedfast.evaluate.caption_quality import measure, nearest_captions
from seedfast.families.caption.metrics import BleuCounts, words

SAID = ["a dog runs over the grass", "a cat sleeps", "two people sit on a bench", "the sea"]
KNOWN = [["a dog runs over the grass", "a dog"], ["one cat is asleep"], ["people sit on a bench"], ["the blue sea"]]


def test_means_have_their_standard_errors() -> None:
    found = measure(SAID, KNOWN)
    assert found["exact_match"].value == 0.25
    assert found["exact_match"].standard_error == pytest.approx(0.25)  # √(¼ · ¾ / 3)
    assert math.isnan(found["distinct_1"].standard_error)
    assert math.isnan(measure(SAID[:1], KNOWN[:1])["exact_match"].standard_error)


def test_the_jackknife_of_a_mean_is_its_standard_error_and_of_bleu_that_of_leaving_each_out() -> None:
    found = measure(SAID, KNOWN)
    counts = [BleuCounts.of(words(a), [words(r) for r in b]) for a, b in zip(SAID, KNOWN, strict=True)]
    rest = [sum((c for j, c in enumerate(counts) if j != i and j != k), counts[k]) for i, k in enumerate([1, 0, 0, 0])]
    without = np.array([each.scores()[0] for each in rest])
    assert found["bleu_1"].standard_error == pytest.approx(math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum()))


def test_the_nearest_picture_is_the_nearest_of_all() -> None:
    pixels_MCSS = np.random.default_rng(0).integers(0, 256, (40, 1, 3, 3), dtype=np.uint8)
    rows, captions = list(range(30)), [[str(i)] for i in range(40)]
    tokens = [[np.array([1], np.uint32)]] * 40
    train = Captions(pixels_MCSS, rows, captions[:30], tokens[:30], [""] * 30, 0)
    asked = Captions(pixels_MCSS, list(range(30, 40)), captions[30:], tokens[30:], [""] * 10, 0)
    flat = pixels_MCSS.reshape(40, -1).astype(np.int64)
    expected = [str(((flat[:30] - flat[30 + i]) ** 2).sum(axis=1).argmin()) for i in range(10)]
    assert nearest_captions(train, asked, list(range(10)), chunk=4) == expected
