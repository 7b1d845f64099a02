"""The sample stream of a mixture: proportions, no repetition within an epoch, every position by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedfast.data.mixture_order import MixtureOrder, Shares, Source

WEIGHTS = st.floats(0.01, 100)
SCHEDULE = st.dictionaries(st.integers(0, 60), st.one_of(st.just(0.0), WEIGHTS), min_size=1, max_size=4).filter(
    lambda weights: any(weights.values())
)


@st.composite
def mixtures(draw: st.DrawFn, weight: st.SearchStrategy[dict[int, float]]) -> tuple[Shares, list[int], int, int]:
    """Shares, sizes of the sources, batch size, seed."""
    count = draw(st.integers(1, 6))
    weights = [{0: draw(WEIGHTS)}, *(draw(weight) for _ in range(count - 1))]  # the first is there at every step
    sizes = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    return Shares.of(weights), sizes, draw(st.integers(1, 9)), draw(st.integers(0, 1 << 40))


def order(shares: Shares, sizes: list[int], batch_size: int, seed: int) -> MixtureOrder:
    sources = [Source(f"s{number}", size) for number, size in enumerate(sizes)]
    return MixtureOrder(sources, shares, seed=seed, batch_size=batch_size)


@settings(max_examples=40)
@given(mixture=mixtures(WEIGHTS.map(lambda weight: {0: weight})), stop=st.integers(1, 500))
def test_every_prefix_has_the_proportions_of_the_weights(
    mixture: tuple[Shares, list[int], int, int], stop: int
) -> None:
    shares = mixture[0].at(0)
    sources, _ = order(*mixture).places(0, stop)
    for source, share in enumerate(shares):
        counts_N = np.cumsum(sources == source)
        assert np.abs(counts_N - share * np.arange(1, stop + 1)).max() < max(1.0, len(shares) - 1) + 1e-9


@settings(max_examples=40)
@given(mixture=mixtures(SCHEDULE), stop=st.integers(1, 700))
def test_every_prefix_has_the_proportions_of_a_schedule(mixture: tuple[Shares, list[int], int, int], stop: int) -> None:
    shares, _, batch_size, _ = mixture
    sources, _ = order(*mixture).places(0, stop)
    # The integral of the shares by the midpoints of the positions, which is exact where they are linear.
    middles_N = (np.arange(stop) + 0.5) / batch_size
    for source, values in enumerate(zip(*shares.shares_SK, strict=True)):
        expected_N = np.cumsum(np.interp(middles_N, shares.steps, values))
        assert np.abs(np.cumsum(sources == source) - expected_N).max() < len(shares.at(0)) + 1


@settings(max_examples=20)
@given(mixture=mixtures(SCHEDULE), stop=st.integers(1, 500))
def test_each_source_has_every_example_once_in_an_epoch_of_its_own(
    mixture: tuple[Shares, list[int], int, int], stop: int
) -> None:
    stream, sizes = order(*mixture), mixture[1]
    ids_N, starts = np.array(stream.ids(0, stop)), np.cumsum([0, *sizes])
    for source, size in enumerate(sizes):
        own = ids_N[(ids_N >= starts[source]) & (ids_N < starts[source + 1])]
        for epoch in range(0, len(own), size):
            seen = own[epoch : epoch + size]
            assert len(set(seen.tolist())) == len(seen)


@settings(max_examples=20)
@given(mixture=mixtures(SCHEDULE), start=st.integers(0, 10**12), count=st.integers(1, 6))
def test_every_position_is_evaluated_by_itself(
    mixture: tuple[Shares, list[int], int, int], start: int, count: int
) -> None:
    together = order(*mixture).ids(start, start + count)
    assert together == [order(*mixture).ids(each, each + 1)[0] for each in range(start, start + count)]


@settings(max_examples=20)
@given(mixture=mixtures(SCHEDULE), at=st.integers(0, 600))
def test_a_stream_that_is_entered_at_a_position_continues_it(
    mixture: tuple[Shares, list[int], int, int], at: int
) -> None:
    whole = order(*mixture).ids(0, 650)
    assert order(*mixture).ids(at, 650) == whole[at:]


def test_a_source_without_a_weight_at_a_step_has_no_examples_there() -> None:
    shares = Shares.of([{0: 1.0}, {0: 0.0, 100: 0.0, 101: 1.0, 200: 0.0}])
    sources, _ = order(shares, [10, 10], 4, 1).places(0, 2000)
    (steps,) = np.nonzero(sources == 1)
    assert 100 <= steps.min() / 4 < 110
    assert 180 < steps.max() / 4 <= 200


def test_an_other_seed_and_an_other_name_give_an_other_order() -> None:
    shares = Shares.of([{0: 1.0}, {0: 2.0}])
    one, other = (order(shares, [500, 500], 4, seed).ids(0, 300) for seed in (1, 2))
    assert one != other
    named = MixtureOrder([Source("x", 500), Source("s1", 500)], shares, seed=1, batch_size=4).ids(0, 300)
    assert [each for each in named if each >= 500] == [each for each in one if each >= 500]
    assert named != one


def test_shares_are_the_weights_over_their_sum() -> None:
    shares = Shares.of([{0: 3.0}, {0: 1.0, 10: 5.0}])
    assert shares.at(0) == [0.75, 0.25]
    assert shares.at(10) == [0.375, 0.625] == shares.at(10**9)
    assert shares.at(5) == pytest.approx([0.5625, 0.4375])


def test_twin_sources_that_are_drawn_at_random_drift_from_their_proportions() -> None:
    drawn = np.random.default_rng(1).random(4000) < 0.5
    assert np.abs(np.cumsum(drawn) - 0.5 * np.arange(1, 4001)).max() > 10


def test_the_memory_and_the_time_of_a_position_do_not_depend_on_it() -> None:
    shares = Shares.of([{0: 1.0}, {0: 2.0, 10**6: 1.0}])
    stream = order(shares, [10**12, 10**11], 256, 3)
    stream.ids(0, 1)
    assert len(stream.ids(10**14, 10**14 + 4096)) == 4096  # a stream that walks there takes years
