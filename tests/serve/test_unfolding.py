"""Texts that are passed on piece by piece: append-only, whole characters, stops held back until they are decided."""

import codecs

from hypothesis import given
from hypothesis import strategies as st

from seedfast.data.text.tokenizers import Bytes
from seedfast.serve.unfolding import Unfolding

BYTES = Bytes()


def pieces(text: bytes, cuts: list[int], stops: list[str], lead: bytes = b"") -> list[str]:
    """A text that arrives in parts."""
    unfolding = Unfolding([*lead], BYTES.decode, stops)
    found = [unfolding.extend([*text[:cut]]).text for cut in [*sorted(cuts), len(text)]]
    return [*found, unfolding.finish().text]


def cut_before_stop(text: str, stops: list[str]) -> str:
    """The reference: before the stop whose last character comes first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@given(
    st.text("abé😀\ufffd", max_size=20), st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 60), max_size=8),
)  # fmt: skip
def test_pieces_are_the_text_before_its_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    found = pieces(text.encode(), cuts, stops)
    assert "".join(found) == cut_before_stop(text, stops)


@given(st.binary(max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_pieces_of_any_bytes_are_what_they_decode_to(text: bytes, cuts: list[int]) -> None:
    assert "".join(pieces(text, cuts, [])) == BYTES.decode([*text])


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_pieces_do_not_depend_on_how_the_text_arrives(text: str, stops: list[str]) -> None:
    one_by_one = pieces(text.encode(), [*range(len(text))], stops)
    assert "".join(one_by_one) == "".join(pieces(text.encode(), [], stops))


def test_what_may_begin_a_stop_is_held_back() -> None:
    assert pieces(b"one. two", [4, 5], ["..", "END"]) == ["one", ". ", "two", ""]
    assert pieces(b"one EN", [5, 6], ["END"]) == ["one ", "", "", "EN"]
    assert pieces(b"one END", [5, 6], ["END"]) == ["one ", "", "", ""]


def test_a_character_is_sent_when_it_is_whole() -> None:
    assert pieces("aé".encode(), [1, 2], []) == ["a", "", "é", ""]
    assert pieces("aé".encode()[:2], [2], []) == ["a", "", "\ufffd"]


def test_tokens_come_with_the_text_that_they_complete() -> None:
    unfolding = Unfolding([], BYTES.decode, ["END"], lambda number: (-float(number), ()))
    ids = [*"aéEx".encode()]
    sent = [unfolding.extend(ids[: n + 1]) for n in range(len(ids))] + [unfolding.finish()]
    assert [piece.text for piece in sent] == ["a", "", "é", "", "Ex", ""]
    assert [[token.log_prob for token in piece.tokens] for piece in sent] == [[0], [-1], [-2], [], [-3, -4], []]
    assert [token.offset for piece in sent for token in piece.tokens] == [0, 1, 1, 2, 3]


def places(text: bytes) -> list[int]:
    """The reference: the number of the character that each byte is a part of."""
    sizes: list[int] = []

    def replaced(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        wrong[error.start] = error.end - error.start
        return "\ufffd", error.end

    wrong: dict[int, int] = {}
    codecs.register_error("noted", replaced)
    start = 0
    for character in text.decode(errors="noted"):
        sizes.append(wrong.get(start) or len(character.encode()))
        start += sizes[-1]
    return [number for number, size in enumerate(sizes) for _ in range(size)]


@given(st.one_of(st.binary(max_size=12), st.text("aé€😀\ufffd", max_size=6).map(str.encode)))
def test_a_token_begins_where_its_first_character_does(text: bytes) -> None:
    unfolding = Unfolding([], BYTES.decode, [], lambda number: (None, ()))
    tokens = [*unfolding.extend([*text]).tokens, *unfolding.finish().tokens]
    assert [token.offset for token in tokens] == places(text)[: len(tokens)]
    assert len(tokens) == len(text)
