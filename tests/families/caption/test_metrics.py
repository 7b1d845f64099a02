"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap's scorers on the same words (docs/identities.md#cider)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from seedfast.families.caption.metrics import BleuCounts, Frequencies, cider, rouge_l, words

_SENTENCE = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), min_size=1, max_size=12)
_IMAGE = st.tuples(_SENTENCE, st.lists(_SENTENCE, min_size=1, max_size=4))
_CORPUS = st.lists(_IMAGE, min_size=1, max_size=6)
Image = tuple[list[str], list[list[str]]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man, riding a horse.", "a man riding a horse"),
        ("It's the dog's bone!", "it's the dog's bone"),
        ("black-and-white 3.5 x", "black and white 3 5 x"),
        ("ÉCOLE e\u0301te\u0301 Straße", "école été straße"),
        ("'quoted' — “word”", "quoted word"),
        ("…", ""),
    ],
)
def test_the_words_of_a_text(text: str, expected: str) -> None:
    assert words(text) == expected.split()


@given(_CORPUS)
def test_cider_agrees_with_the_reference_implementation(corpus: list[Image]) -> None:
    scorer = CiderScorer()
    for candidate, references in corpus:
        scorer += (" ".join(candidate), [" ".join(each) for each in references])
    _, expected = scorer.compute_score()
    frequencies = Frequencies.of(references for _, references in corpus)
    ours = [cider(candidate, references, frequencies) for candidate, references in corpus]
    assert ours == pytest.approx(list(expected), rel=1e-12, abs=1e-12)


@given(_CORPUS)
def test_bleu_agrees_with_the_reference_implementation(corpus: list[Image]) -> None:
    scorer = BleuScorer()
    for candidate, references in corpus:
        scorer += (" ".join(candidate), [" ".join(each) for each in references])
    expected, _ = scorer.compute_score(option="closest")
    total = BleuCounts((0,) * 4, (0,) * 4, 0, 0)
    for candidate, references in corpus:
        total += BleuCounts.of(candidate, references)
    assert total.scores() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(_IMAGE)
def test_rouge_agrees_with_the_reference_implementation(image: Image) -> None:
    candidate, references = image
    expected = Rouge().calc_score([" ".join(candidate)], [" ".join(each) for each in references])
    assert rouge_l(candidate, references) == pytest.approx(expected, rel=1e-12)


def test_bleu_counts_can_be_subtracted() -> None:
    counts = [BleuCounts.of(words("a b c d"), [words("a b c d")]), BleuCounts.of(words("a c"), [words("a b c d e f")])]
    assert counts[0] + counts[1] - counts[1] == counts[0]


def test_empty_captions_score_zero() -> None:
    reference = [words("a dog runs")]
    frequencies = Frequencies.of([reference, [words("a cat")]])
    assert cider([], reference, frequencies) == rouge_l([], reference) == 0
    assert BleuCounts.of([], reference).scores() == [0.0] * 4 or max(BleuCounts.of([], reference).scores()) < 1e-6
