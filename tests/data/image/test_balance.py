"""Class balance: weights by their formulas, and keyed sampling in these proportions."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.helpers.image_data import image_data

from seedfast.data.image.balance import class_weights
from seedfast.data.sample_order import Order


def test_class_weights_by_their_formulas() -> None:
    counts = (10, 30)
    assert class_weights(counts, None, beta=0.9, manual=()) == [1, 1]
    assert class_weights(counts, "inverse-frequency", beta=0.9, manual=()) == pytest.approx([1.5, 0.5])
    raw = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**30)]
    expected = [2 * each / sum(raw) for each in raw]
    assert class_weights(counts, "effective-number", beta=0.9, manual=()) == pytest.approx(expected)
    assert class_weights(counts, "manual", beta=0.9, manual=(3, 1)) == pytest.approx([1.5, 0.5])


def test_balanced_sampling_draws_classes_equally_and_examples_of_a_class_equally(folder: Path) -> None:
    corpus = image_data(folder, balance="inverse-frequency").load()
    order = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    ids = order.ids(0, 100 * len(corpus.train))
    labels = corpus.train.batch(ids)["labels"]  # type: ignore[union-attr]
    assert float(labels.double().mean()) == pytest.approx(0.5, abs=0.02)
    for label in (0, 1):
        drawn = Counter(i for i, of in zip(ids, labels.tolist(), strict=True) if of == label)
        assert max(drawn.values()) <= 1.2 * min(drawn.values())


def test_equal_sampling_weights_give_a_permutation_of_each_epoch() -> None:
    order = Order(size=37, seed=1, sampling_weights=torch.full((37,), 0.3, dtype=torch.float64))
    for epoch in range(3):
        assert sorted(order.ids(37 * epoch, 37 * (epoch + 1))) == list(range(37))


def test_sampling_weights_hold_in_each_epoch_to_one_example() -> None:
    shares = torch.tensor([0.5, 1.0, 2.5, 7.0, 0.01, 3.0], dtype=torch.float64).repeat(10)
    order = Order(size=60, seed=3, sampling_weights=shares)
    for epoch in range(20):
        drawn = Counter(order.ids(60 * epoch, 60 * (epoch + 1)))
        for example, share in enumerate((shares * 60 / shares.sum()).tolist()):
            assert abs(drawn[example] - share) < 1


def test_balanced_order_is_a_function_of_the_position(folder: Path) -> None:
    corpus = image_data(folder, balance="effective-number").load()
    order = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    far = 10**12
    again = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    assert order.ids(far, far + 50)[20:30] == again.ids(far + 20, far + 30)
