"""Tokens become as many bits as their probabilities say, and come back."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedfast.evaluate.codec import entropy
from seedfast.evaluate.codec.entropy import DamagedError, Decoder, Encoder, ImpossibleError, pack, trees

Probabilities = npt.NDArray[np.float64]


def distributions(count: int, vocabulary: int, spread: float, seed: int = 1) -> Probabilities:
    """Distributions whose logits have this standard deviation: at 8, tokens of one chance in 10^12 are common."""
    logits = np.random.default_rng(seed).normal(0, spread, (count, vocabulary))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def drawn(p_NV: Probabilities, seed: int = 2) -> list[int]:
    """A token from each distribution."""
    u_N1 = np.random.default_rng(seed).random((len(p_NV), 1))
    return (p_NV.cumsum(axis=1) < u_N1 * p_NV.sum(axis=1, keepdims=True)).sum(axis=1).tolist()


def encoded(p_NV: Probabilities, tokens: list[int]) -> bytes:
    encoder = Encoder()
    for sums, token in zip(trees(p_NV), tokens, strict=True):
        encoder.put(sums, token)
    return pack([np.array(encoder.packed, np.uint32)])


def ideal(p_NV: Probabilities, tokens: list[int]) -> float:
    return -math.fsum(np.log2(p_NV[np.arange(len(tokens)), tokens]))


@pytest.mark.parametrize("vocabulary", [2, 3, 65, 257, 50_257])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_tokens_come_back_from_as_many_bits_as_they_are_worth(vocabulary: int, spread: float) -> None:
    p_NV = distributions(2000 if vocabulary < 1000 else 100, vocabulary, spread)
    tokens = drawn(p_NV)
    bits = encoded(p_NV, tokens)
    assert abs(8 * len(bits) - ideal(p_NV, tokens)) <= 64
    decoder = Decoder(bits)
    assert [decoder.get(sums) for sums in trees(p_NV)] == tokens
    assert decoder.is_at_end


@pytest.mark.parametrize("which", ["likeliest", "least likely", "first", "last"])
def test_text_that_the_model_does_not_expect_has_its_size_too(which: str) -> None:
    """The bound needs no text that follows the model: 2000 tokens of 25 to 80 bits each, or of none."""
    p_NV = distributions(2000, 65, 5.0)
    choose = {"likeliest": p_NV.argmax(axis=1), "least likely": p_NV.argmin(axis=1)}
    tokens = choose.get(which, np.full(2000, 0 if which == "first" else 64)).tolist()
    bits = encoded(p_NV, tokens)
    assert abs(8 * len(bits) - ideal(p_NV, tokens)) <= 64
    decoder = Decoder(bits)
    assert [decoder.get(sums) for sums in trees(p_NV)] == tokens


def test_a_coder_with_coarse_probabilities_misses_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    p_NV = distributions(2000, 65, 1.0)
    tokens = drawn(p_NV)
    monkeypatch.setattr(entropy, "WHOLE", 1 << 6)
    bits = encoded(p_NV, tokens)
    assert abs(8 * len(bits) - ideal(p_NV, tokens)) > 64
    decoder = Decoder(bits)
    assert [decoder.get(sums) for sums in trees(p_NV)] == tokens, "it is no worse in anything else"


def test_without_second_steps_rare_tokens_miss_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    p_NV = distributions(2000, 65, 5.0)
    tokens = p_NV.argmin(axis=1).tolist()
    monkeypatch.setattr(entropy, "_NEAR", 0.0)
    assert ideal(p_NV, tokens) - 8 * len(encoded(p_NV, tokens)) > 64


def test_a_million_steps_have_their_size() -> None:
    """The coder's own error does not add up, at chances of a half, of a thousandth, and of a millionth."""
    random = np.random.default_rng(1)
    for chance in (0.5, 1e-3, 1e-6):
        frequency = math.ceil(chance * entropy.WHOLE)
        taken = random.random(1_000_000) < chance
        bits = pack([2 * np.full(len(taken), frequency, np.uint32) + taken])
        costs = {True: -math.log2(frequency / entropy.WHOLE), False: -math.log2(1 - frequency / entropy.WHOLE)}
        assert abs(8 * len(bits) - taken.sum() * costs[True] - (~taken).sum() * costs[False]) <= 64


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda values: sum(values) > 0),
    st.data(),
)
def test_any_token_that_has_a_probability_comes_back(values: list[float], data: st.DataObject) -> None:
    p_1V = np.array([values])
    token = data.draw(st.integers(0, len(values) - 1))
    try:
        bits = encoded(p_1V, [token])
    except ImpossibleError:
        assert values[token] < 1e-300 * sum(values), "zero, or zero beside the others"
        return
    assert Decoder(bits).get(trees(p_1V)[0]) == token


def test_what_has_no_probability_has_no_bits() -> None:
    for p in ([0.0, 1.0], [math.nan, math.nan], [math.nan, 1.0]):
        with pytest.raises(ImpossibleError):
            encoded(np.array([p]), [0])


def test_a_decoder_goes_on_where_another_one_stopped() -> None:
    p_NV = distributions(500, 65, 1.0)
    tokens = drawn(p_NV)
    bits, sums = encoded(p_NV, tokens), trees(p_NV)
    first = Decoder(bits)
    assert [first.get(each) for each in sums[:200]] == tokens[:200]
    assert [Decoder(bits, first.position).get(sums[200])] == tokens[200:201]
    rest = Decoder(bits, first.position)
    assert [rest.get(each) for each in sums[200:]] == tokens[200:]
    assert rest.is_at_end


def test_blocks_are_written_from_the_last() -> None:
    encoder, p_NV = Encoder(), distributions(500, 65, 1.0)
    for sums, token in zip(trees(p_NV), drawn(p_NV), strict=True):
        encoder.put(sums, token)
    whole = np.array(encoder.packed, np.uint32)
    assert pack([whole[1000:], whole[300:1000], whole[:300]]) == pack([whole])
    assert pack([]) == b""
    assert Decoder(b"").is_at_end
    with pytest.raises(DamagedError):
        Decoder(b"ab\0")


def test_sums_are_those_of_pairs() -> None:
    p_NV = distributions(3, 5, 1.0)
    sums = trees(p_NV)
    assert sums.shape == (3, 16)
    assert np.array_equal(sums[:, 1:8], sums[:, 2::2] + sums[:, 3::2])
    assert np.array_equal(sums[:, 8:13], p_NV)
    assert sums[:, 1] == pytest.approx(1)
