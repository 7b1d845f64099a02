"""Keyed randomness: words equal to big-integer arithmetic, and the documented distributions."""

import hashlib
import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from seedfast import keys
from seedfast.keys import Draws
from seedfast.verify.identities.check import p_value

WORD = (1 << 64) - 1
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
LEAST = 1e-6  # the smallest accepted p-value; all numbers are keyed, so a test that passes once always passes
key_of = st.integers(-(1 << 63), (1 << 63) - 1)
position_of = st.integers(0, (1 << 62) - 1)


def mix(word: int) -> int:
    """SplitMix64's finaliser with Stafford's mix 13, in Python integers."""
    word &= WORD
    word = (word ^ word >> 30) * MIX_1 & WORD
    word = (word ^ word >> 27) * MIX_2 & WORD
    return word ^ word >> 31


def word_at(key: int, position: int, index: int) -> int:
    mixed = mix(mix(position * GOLDEN + key) ^ key & WORD)
    return mix(mixed ^ mix((index + 1) * GOLDEN))


def feistel(key: int, x: int, size: int, *, backwards: bool = False) -> int:
    """`keys.shuffle` of one index, or its inverse, in Python integers."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = x >> half, x & low
        for turn in reversed(range(10)) if backwards else range(10):
            if backwards:
                left, right = right ^ (mix(mix(left * GOLDEN + turn) ^ key & WORD) & low), left
            else:
                left, right = right, left ^ (mix(mix(right * GOLDEN + turn) ^ key & WORD) & low)
        x = left << half | right
        if x < size:
            return x


def unsigned(word: int) -> int:
    return word & WORD


def even(numbers: Tensor, cells: int) -> float:
    """The p-value of numbers in [0, 1) being uniform over this many cells."""
    counts = torch.bincount((numbers.flatten().double() * cells).long(), minlength=cells)
    return p_value(counts, torch.full((cells,), 1 / cells, dtype=torch.float64))


def unrelated(a: Tensor, b: Tensor) -> float:
    """The p-value of pairs of numbers in [0, 1) being uniform over a grid of 16 × 16."""
    return even(((a.flatten() * 16).floor() * 16 + (b.flatten() * 16).floor()) / 256, 256)


@given(key=key_of, positions=st.lists(position_of, min_size=1, max_size=5), count=st.integers(1, 9))
def test_the_words_are_those_of_big_integer_arithmetic(key: int, positions: list[int], count: int) -> None:
    words = keys.bits(key, torch.tensor(positions), count).tolist()
    assert [[unsigned(word) for word in row] for row in words] == [
        [word_at(key, position, index) for index in range(count)] for position in positions
    ]


@given(key=key_of, position=position_of)
def test_the_numbers_are_the_leading_bits_of_the_words(key: int, position: int) -> None:
    at = torch.tensor([position])
    word = word_at(key, position, 0)
    assert float(keys.uniform(key, at, 1)[0, 0]) == (word >> 40) / 2**24
    assert float(keys.uniform(key, at, 1, dtype=torch.float64)[0, 0]) == (word >> 11) / 2**53


@given(seed=st.integers(0, 1 << 80), path=st.lists(st.text(max_size=5) | st.integers(), max_size=3))
def test_keys_are_hashes_of_their_path(seed: int, path: list[str | int]) -> None:
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in path)]).encode(
        "utf-8", "surrogatepass"
    )
    digest = hashlib.blake2b(text, digest_size=8).digest()
    assert keys.derive(seed, *path) == int.from_bytes(digest, "little", signed=True)


def test_these_numbers_never_change() -> None:
    """Later versions resume and replay runs: a change of these numbers breaks every existing run."""
    assert keys.derive(1, "train", "mask") == 3303826457327465432
    assert keys.bits(42, torch.tensor([0, 10**12]), 2).tolist() == [
        [9107985702357523721, 3345085015848667389],
        [-6543365531580833319, -8337371649336076073],
    ]
    assert keys.shuffle(42, torch.arange(7), 7).tolist() == [3, 6, 0, 5, 1, 4, 2]


def test_one_flipped_bit_flips_half_of_all_bits() -> None:
    positions = torch.arange(4096)
    for shift in (0, 7, 31, 61):
        changed = keys.bits(5, positions, 1) ^ keys.bits(5, positions ^ (1 << shift), 1)
        flipped = [unsigned(word).bit_count() for word in changed[:, 0].tolist()]
        assert abs(sum(flipped) / len(flipped) - 32) < 5 * 4 / math.sqrt(len(flipped))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform_in_0_to_1(dtype: torch.dtype) -> None:
    u = keys.uniform(11, torch.arange(100_000), 10, dtype=dtype)
    assert 0 <= float(u.min()) <= float(u.max()) < 1
    assert even(u, 1000) > LEAST
    assert even((u.double() * 1024) % 1, 1024) > LEAST  # the next ten bits too


def test_the_largest_uniform_number_is_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "bits", lambda key, positions_B, *shape: torch.full((1, *shape), -1))
    at = torch.tensor([0])
    assert float(keys.uniform(0, at, 1)) == 1 - 2.0**-24
    assert float(keys.uniform(0, at, 1, dtype=torch.float64)) == 1 - 2.0**-53
    assert int(keys.randint(0, at, 1, high=1 << 40)) == (1 << 40) - 1
    assert math.isfinite(float(keys.normal(0, at, 1)))
    assert float(Draws(seed=0, scope="", positions_B=at).stratified("t")) < 1


def test_normal_numbers_have_the_moments_and_the_distribution_of_a_normal() -> None:
    count = 1_000_000
    z = keys.normal(3, torch.arange(count // 10), 10).double().flatten()
    assert abs(float(z.mean())) < 5 / math.sqrt(count)
    assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / count)
    assert abs(float(z.pow(3).mean())) < 5 * math.sqrt(15 / count)
    assert abs(float(z.pow(4).mean()) - 3) < 5 * math.sqrt(96 / count)
    assert stats.kstest(z[:200_000].numpy(), "norm").pvalue > LEAST
    assert 4.4 < float(z.abs().max()) < 6.5


@given(high=st.integers(1, 1 << 40), key=key_of)
def test_integers_lie_below_their_bound(high: int, key: int) -> None:
    numbers = keys.randint(key, torch.arange(20), 3, high=high)
    assert 0 <= int(numbers.min()) <= int(numbers.max()) < high


@pytest.mark.parametrize("high", [2, 3, 7, 1000])
def test_integers_are_uniform(high: int) -> None:
    counts = torch.bincount(keys.randint(1, torch.arange(50_000), 4, high=high).flatten(), minlength=high)
    assert p_value(counts, torch.full((high,), 1 / high, dtype=torch.float64)) > LEAST


def test_all_permutations_are_equally_likely() -> None:
    order = keys.permutation(9, torch.arange(240_000), 4)
    assert torch.equal(order.sort(dim=1).values, torch.arange(4).expand_as(order))
    counts = torch.bincount((order * torch.tensor([64, 16, 4, 1])).sum(dim=1), minlength=256)
    assert int((counts > 0).sum()) == 24
    assert p_value(counts[counts > 0], torch.full((24,), 1 / 24, dtype=torch.float64)) > LEAST


@given(key=key_of, size=st.integers(1, 700))
def test_a_shuffle_is_a_bijection(key: int, size: int) -> None:
    assert keys.shuffle(key, torch.arange(size), size).sort().values.tolist() == list(range(size))


@settings(max_examples=60)
@given(
    key=key_of, size=st.integers(1, 1 << 61) | st.sampled_from([1, 2, 3, 4, 5, 10**12, (1 << 61) - 1]), data=st.data()
)
def test_a_shuffle_of_any_size_equals_big_integer_arithmetic_and_has_an_inverse(
    key: int, size: int, data: st.DataObject
) -> None:
    index = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4, unique=True))
    image = keys.shuffle(key, torch.tensor(index), size).tolist()
    assert image == [feistel(key, i, size) for i in index]
    assert [feistel(key, i, size, backwards=True) for i in image] == index


@pytest.mark.parametrize("size", [10**6, 10**12 - 1, 10**12, (1 << 62) - 1])
def test_images_of_a_large_shuffle_are_distinct_and_spread_evenly(size: int) -> None:
    index = torch.cat([torch.arange(50_000), torch.arange(size - 50_000, size)])
    image = keys.shuffle(8, index, size)
    assert len(image.unique()) == 100_000
    assert 0 <= int(image.min()) <= int(image.max()) < size
    assert even(image.double() / size, 100) > LEAST


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 17, 40])
def test_a_shuffle_maps_two_indices_to_all_pairs_of_places_equally_often(size: int) -> None:
    count = 40_000
    each = keys.bits(keys.derive(3, "order"), torch.arange(count), 1)[:, 0]
    first, second = (keys.shuffle(each, torch.full((count,), i), size) for i in (0, size - 1))
    distinct = (1 - torch.eye(size, dtype=torch.float64)).flatten()
    counts = torch.bincount(first * size + second, minlength=size * size)
    assert p_value(counts, distinct / distinct.sum()) > LEAST


@pytest.mark.parametrize("size", [0, -1, 1 << 62])
def test_a_shuffle_of_an_invalid_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size between 1 and 2\\^62"):
        keys.shuffle(0, torch.tensor([0]), size)


@settings(max_examples=50)
@given(seed=st.integers(0, 1 << 40), group=st.integers(1, 64), first=st.integers(0, 1 << 40))
def test_every_group_has_one_number_in_each_stratum(seed: int, group: int, first: int) -> None:
    start = first * group
    t = Draws(seed=seed, scope="train", positions_B=torch.arange(start, start + 3 * group), group=group).stratified("t")
    strata = (t * group).floor().view(3, group).sort(dim=1).values
    assert torch.equal(strata, torch.arange(group).double().expand(3, group))


@pytest.mark.parametrize("place", [0, 4, 7])
def test_each_stratified_number_is_uniform(place: int) -> None:
    t = Draws(seed=2, scope="train", positions_B=torch.arange(60_000) * 8 + place, group=8).stratified("t")
    assert even(t, 64) > LEAST


def test_twin_stratified_times_without_a_permutation_are_caught() -> None:
    """Evenly spread, but each place of the batch is always in the same stratum: the check of one place must fail."""
    t = (torch.arange(8).repeat(1000) + keys.uniform(0, torch.arange(8000), 1)[:, 0]) / 8
    assert even(t, 64) > LEAST
    assert even(t[::8], 64) < LEAST


def everything(draws: Draws) -> list[Tensor]:
    return [
        draws.uniform("u", 3),
        draws.uniform("u", 2, 2, dtype=torch.float64),
        draws.normal("z", 3),
        draws.randint("i", 2, high=10),
        draws.permutation("p", 5),
        draws.stratified("t"),
    ]


@given(cuts=st.lists(st.integers(1, 23), max_size=4), order=st.permutations(range(24)), first=st.integers(0, 1 << 40))
def test_numbers_do_not_depend_on_the_split_or_the_order_of_examples(
    cuts: list[int], order: list[int], first: int
) -> None:
    positions = torch.arange(first, first + 24)
    whole = everything(Draws(seed=1, scope="train", positions_B=positions, group=8))
    stops = [0, *sorted(cuts), 24]
    parts = [
        everything(Draws(seed=1, scope="train", positions_B=positions[a:b], group=8))
        for a, b in pairwise(stops)
        if a < b
    ]
    for name, together in enumerate(whole):
        assert torch.equal(torch.cat([part[name] for part in parts]), together)
    turned = everything(Draws(seed=1, scope="train", positions_B=positions[torch.tensor(order)], group=8))
    assert all(torch.equal(a, b[torch.tensor(order)]) for a, b in zip(turned, whole, strict=True))


@given(first=st.integers(1, 20), more=st.integers(1, 20))
def test_drawing_more_numbers_changes_none_of_the_first(first: int, more: int) -> None:
    draws = Draws(seed=1, scope="train", positions_B=torch.arange(5))
    assert torch.equal(draws.uniform("u", first + more)[:, :first], draws.uniform("u", first))


def test_seeds_scopes_stages_streams_positions_and_indices_are_independent() -> None:
    positions = torch.arange(60_000)
    base = Draws(seed=1, scope="train", positions_B=positions)
    drawn = {
        "base": base.uniform("mask", 2)[:, 0],
        "seed": Draws(seed=2, scope="train", positions_B=positions).uniform("mask", 1)[:, 0],
        "scope": Draws(seed=1, scope="eval", positions_B=positions).uniform("mask", 1)[:, 0],
        "stream": base.uniform("time", 1)[:, 0],
        "stage": base.at(0).uniform("mask", 1)[:, 0],
        "next stage": base.at(1).uniform("mask", 1)[:, 0],
        "next position": Draws(seed=1, scope="train", positions_B=positions + 1).uniform("mask", 1)[:, 0],
        "index": base.uniform("mask", 2)[:, 1],
    }
    for (name, a), (other, b) in combinations(drawn.items(), 2):
        assert unrelated(a, b) > LEAST, f"{name} and {other}"


def test_twin_shifted_copies_are_caught() -> None:
    """Consecutive counters with one key: the numbers of the next example are shifted by one place."""
    u = keys.uniform(0, torch.arange(20_001), 1)[:, 0]
    assert unrelated(u[1:], u[1:].clone()) < LEAST


def test_torchs_generators_are_seeded_by_the_whole_path() -> None:
    with torch.random.fork_rng(devices=[]):
        drawn = []
        for path in (("dropout", 1), ("dropout", 1), ("dropout", 2), ("init", 1)):
            keys.seed_torch(7, *path)
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
