"""The split by groups: how much validates, what stays together, and what always trains."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedfast.data.image.split import assign_splits
from seedfast.data.split import FirstOf, far_notice, hold_out
from seedfast.errors import UserError

SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=40)


def held(sizes: list[int], validation: float, ranks: list[int] | None = None) -> list[int]:
    """The groups that validate."""
    found = hold_out(np.array(sizes), np.array(ranks or range(len(sizes))), validation)
    return np.flatnonzero(found).tolist()


@given(st.integers(2, 60), st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_equal_groups_validate_in_the_order_of_their_hashes_until_the_part_is_reached(n: int, part: float) -> None:
    count = min(int(np.searchsorted(np.arange(1, n + 1), part * n)) + 1, n - 1)
    assert held([7] * n, part, ranks=list(range(n, 0, -1))) == list(range(n - count, n))


@given(SIZES, st.sampled_from([0.05, 0.1, 0.3]))
def test_no_group_overshoots_while_a_smaller_one_is_left(sizes: list[int], part: float) -> None:
    """Beyond the tolerance only the last group may go, when no other fits."""
    found, wanted = held(sizes, part), part * sum(sizes)
    assert found
    assert len(found) < len(sizes)
    total = sum(sizes[group] for group in found)
    if total > 1.1 * wanted:
        smallest = min(size for group, size in enumerate(sizes) if group not in found)
        assert any(total - sizes[last] < wanted and sizes[last] <= smallest for last in found)
        assert total <= 2 * wanted or len(found) == 1


def test_a_large_group_trains_beside_small_ones() -> None:
    for ranks in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert 0 not in held([1000, 30, 20], 0.1, ranks)
    assert held([40, 1, 1, 1, 1], 0.05) == [1, 2, 3]


def test_twin_that_takes_groups_until_the_part_is_reached_overshoots() -> None:
    """The rule without passing over holds out the large group."""
    sizes = np.array([1000, 30, 20])
    prefix = sizes[: int(np.searchsorted(np.cumsum(sizes), 0.1 * sizes.sum())) + 1]
    assert prefix.sum() > 0.9 * sizes.sum()
    assert sizes[held(sizes.tolist(), 0.1)].sum() < 0.2 * sizes.sum()


def test_nothing_validates_where_nothing_is_wanted_or_one_group_is_all() -> None:
    assert held([3, 4], 0.0) == []
    assert held([9], 0.5) == []


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.sampled_from([0.05, 0.3, 0.9]))
def test_each_class_keeps_a_member_that_trains(labels: list[str], part: float) -> None:
    keys = [str(number) for number in range(len(labels))]
    splits, _ = assign_splits(keys, [None] * len(keys), part, title="it", labels=labels)
    training = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert training == set(labels)
    if max(Counter(labels).values()) > 1:
        assert "validation" in splits


def test_images_of_one_key_stay_together_and_a_far_split_is_reported() -> None:
    keys = [*["x"] * 4, *["y"] * 4]
    splits, notes = assign_splits(keys, [None] * 8, 0.05, title="it")
    assert {tuple(splits[:4]), tuple(splits[4:])} == {("train",) * 4, ("validation",) * 4}
    assert notes == [
        "4 of 8 images of it validate, 50% where data.validation=0.05: related images stay together, and each class "
        "keeps one that trains."
    ]
    assert not assign_splits([str(n) for n in range(20)], [None] * 20, 0.05, title="it")[1]


def test_a_given_split_is_taken_and_needs_training_images() -> None:
    assert assign_splits(["a", "b"], ["train", "validation"], 0.1, title="it") == (["train", "validation"], [])
    assert assign_splits(["a", "b"], ["train", "train"], 0.1, title="it")[0] == ["train", "train"]
    with pytest.raises(UserError, match="it has no image in its train split"):
        assign_splits(["a"], ["validation"], 0.1, title="it")


def test_equal_contents_have_the_key_of_the_first() -> None:
    first_of = FirstOf()
    assert [first_of(*pair) for pair in (("c", "1"), ("d", "2"), ("c", "3"))] == ["1", "2", "1"]


def test_a_split_near_the_wanted_part_is_not_reported() -> None:
    assert not far_notice("it", 5, 100, "bytes", 0.1, "why")
    assert not far_notice("it", 20, 100, "bytes", 0.1, "why")
    assert far_notice("it", 4, 100, "bytes", 0.1, "why") == [
        "4 of 100 bytes of it validate, 4% where data.validation=0.1: why."
    ]
    assert far_notice("it", 21, 100, "bytes", 0.1, "why")
