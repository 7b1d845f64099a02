"""Properties of the sample stream: every epoch is a permutation, and every position is evaluated by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedfast import keys
from seedfast.data.sample_order import Order
from seedfast.verify.identities.check import p_value


@given(size=st.integers(1, 300), seed=st.integers(0, 1 << 40), epoch=st.integers(0, 10**9))
def test_every_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    ids = Order(size=size, seed=seed).ids(epoch * size, (epoch + 1) * size)
    assert sorted(ids) == list(range(size))


@settings(max_examples=25)
@given(
    size=st.integers(1, 10**12),
    start=st.integers(0, 10**15),
    count=st.integers(0, 50),
    jumps=st.lists(st.integers(0, 10**15), max_size=3),
)
def test_random_access_is_sequential_access(size: int, start: int, count: int, jumps: list[int]) -> None:
    order, fresh = Order(size=size, seed=3), Order(size=size, seed=3)
    for jump in jumps:
        order.ids(jump, jump + 5)  # whatever was asked before
    together = order.ids(start, start + count)
    assert together == [fresh.ids(position, position + 1)[0] for position in range(start, start + count)]
    assert together == fresh.ids_at(torch.arange(start, start + count)).tolist()
    assert all(0 <= example < size for example in together)


@settings(max_examples=30)
@given(size=st.integers(1, 2000), step=st.integers(1, 499))
def test_steps_of_any_length_walk_the_same_stream(size: int, step: int) -> None:
    order = Order(size=size, seed=1)
    stream = Order(size=size, seed=1).ids(0, 1500)
    assert [
        example for start in range(0, 1500, step) for example in order.ids(start, min(start + step, 1500))
    ] == stream


def test_epochs_and_seeds_have_unrelated_orders() -> None:
    size = 1000
    first, second = (Order(size=size, seed=1).ids(epoch * size, (epoch + 1) * size) for epoch in (0, 1))
    other = Order(size=size, seed=2).ids(0, size)
    for a, b in ((first, second), (first, other)):
        # Of two unrelated permutations, one position on average has the same example: Poisson.
        assert sum(x == y for x, y in zip(a, b, strict=True)) < 10


def test_each_example_is_equally_often_first() -> None:
    size, epochs = 20, 40_000
    firsts = Order(size=size, seed=5).ids_at(torch.arange(epochs) * size)
    counts = torch.bincount(firsts, minlength=size)
    assert p_value(counts, torch.full((size,), 1 / size, dtype=torch.float64)) > 1e-6


def test_twin_an_order_drawn_with_replacement_is_detected() -> None:
    drawn = keys.randint(0, torch.arange(100), 1, high=100)[:, 0].tolist()
    assert sorted(drawn) != list(range(100))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_data_sets_have_several_orders(size: int) -> None:
    epochs = Order(size=size, seed=1).ids_at(torch.arange(200 * size)).view(200, size).tolist()
    orders = {tuple(epoch) for epoch in epochs}
    assert len(orders) == {1: 1, 2: 2, 3: 6}[size]


def test_a_start_at_position_10_to_the_15_evaluates_no_more_than_a_start_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost is counted, not timed: how many positions are evaluated for the first 64 ids."""

    def evaluated(start: int) -> int:
        counts: list[int] = []
        whole = Order.ids_at
        monkeypatch.setattr(Order, "ids_at", lambda self, at: counts.append(len(at)) or whole(self, at))
        Order(size=10**6 + 3, seed=1).ids(start, start + 64)
        monkeypatch.undo()
        return sum(counts)

    assert evaluated(10**15) == evaluated(0) > 0
