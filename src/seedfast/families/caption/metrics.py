"""Agreement of a caption with its references: BLEU, ROUGE-L and CIDEr-D on words, without Java.

On the same words each metric agrees with pycocoevalcap's scorer to rounding. pycocoevalcap takes its words from
Stanford's tokenizer, which needs Java; here they come from `words`, so values are comparable only with values on these
words. Closed forms: docs/identities.md#cider.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Words = Sequence[str]
Gram = tuple[str, ...]

ORDERS = range(1, 5)
"""Lengths of the n-grams that BLEU and CIDEr count."""

SIGMA = 6.0
"""Standard deviation of CIDEr-D's Gaussian length penalty, in words."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_TINY, _SMALL = 1e-15, 1e-9  # the reference implementation of BLEU adds them to counts that may be zero


def words(text: str) -> list[str]:
    """The words of a text, by a fixed rule: NFC, lower case, runs of letters, digits and underscores.

    An apostrophe between two such runs joins them; all other punctuation separates words and is dropped.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def grams(text: Words) -> list[Counter[Gram]]:
    """The number of times each n-gram occurs in a text, for each of the `ORDERS`."""
    return [Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for n in ORDERS]


@dataclass(frozen=True)
class Frequencies:
    """Document frequencies: the number of images, of `images` in all, whose references contain an n-gram.

    counts: those above 1. An unknown n-gram has the frequency 1, so the others need no entry.
    """

    images: int
    counts: Mapping[Gram, int]

    @staticmethod
    def of(references: Iterable[Sequence[Words]]) -> "Frequencies":
        """The frequencies in a corpus, given the references of each image."""
        images, counts = 0, Counter[Gram]()
        for several in references:
            images += 1
            counts.update({gram for reference in several for each in grams(reference) for gram in each})
        return Frequencies(images, {gram: count for gram, count in counts.items() if count > 1})

    def idf(self, gram: Gram) -> float:
        """ln(images) - ln(max(1, document frequency))."""
        return math.log(self.images) - math.log(self.counts.get(gram, 1))


def cider(candidate: Words, references: Sequence[Words], frequencies: Frequencies) -> float:
    """CIDEr-D (Vedantam et al. 2015, section 3 and the robust form of 5.1), from 0 to 10.

    For each order n, the cosine of the tf-idf vectors of candidate and reference, with the candidate's counts clipped
    to the reference's in the numerator; times exp(-(difference in length)² / 2σ²). Then the mean over the orders, the
    mean over the references, and times 10.
    """
    vectors = _vectors(candidate, frequencies)
    scores = [_similarity(vectors, _vectors(reference, frequencies)) for reference in references]
    return 10.0 * sum(scores) / len(scores)


class CiderScorer:
    """CIDEr-D with the document frequencies of given references, which are counted at the first use."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        """references: the captions of each image of a corpus, as text."""
        self._references = references

    @cached_property
    def frequencies(self) -> Frequencies:
        """The document frequencies."""
        return Frequencies.of([words(caption) for caption in captions] for captions in self._references)

    @property
    def has_value(self) -> bool:
        """Whether any n-gram has a weight: of one image, or of captions that are all equal, CIDEr-D is 0 for all."""
        return any(
            self.frequencies.idf(gram) > 0
            for captions in self._references
            for caption in captions
            for each in grams(words(caption))
            for gram in each
        )

    def __call__(self, candidate: Words, references: Sequence[Words]) -> float:
        """CIDEr-D of a candidate against the references of its image."""
        return cider(candidate, references, self.frequencies)


Vectors = tuple[list[dict[Gram, float]], list[float], int]


def _vectors(text: Words, frequencies: Frequencies) -> Vectors:
    """tf-idf weights of each order, their norms, and the length in bigrams, as in the authors' implementation."""
    weights = [{gram: tf * frequencies.idf(gram) for gram, tf in counts.items()} for counts in grams(text)]
    norms = [math.sqrt(sum(w * w for w in each.values())) for each in weights]
    return weights, norms, max(0, len(text) - 1)


def _similarity(candidate: Vectors, reference: Vectors) -> float:
    total = 0.0
    for x, y, norm_x, norm_y in zip(candidate[0], reference[0], candidate[1], reference[1], strict=True):
        if norm_x and norm_y:
            total += sum(min(w, y[gram]) * y[gram] for gram, w in x.items() if gram in y) / (norm_x * norm_y)
    return total / len(ORDERS) * math.exp(-((candidate[2] - reference[2]) ** 2) / (2 * SIGMA**2))


def rouge_l(candidate: Words, references: Sequence[Words], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004, section 3.1): the F-measure of the longest common subsequence, with weight β² on recall.

    As usual for captions: the best precision and the best recall over the references, which may come from two different
    references.
    """
    if not candidate:
        return 0.0
    common = [_longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(each / max(1, len(reference)) for each, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _longest_common_subsequence(a: Words, b: Words) -> int:
    lengths = [0] * (len(b) + 1)
    for word in a:
        before = 0  # without the last word of both
        for j, other in enumerate(b, start=1):
            before, lengths[j] = lengths[j], before + 1 if word == other else max(lengths[j], lengths[j - 1])
    return lengths[-1]


@dataclass(frozen=True)
class BleuCounts:
    """The counts that BLEU sums over a corpus: matched and generated n-grams of each order, both lengths in words."""

    matched: tuple[int, ...]
    generated: tuple[int, ...]
    length: int
    reference_length: int

    @staticmethod
    def of(candidate: Words, references: Sequence[Words]) -> "BleuCounts":
        """The counts of one caption; its reference length is that of the reference closest in length."""
        counts, known = grams(candidate), [grams(reference) for reference in references]
        matched = tuple(
            sum(min(count, max(reference[n][gram] for reference in known)) for gram, count in counts[n].items())
            for n in range(len(ORDERS))
        )
        closest = min((abs(len(reference) - len(candidate)), len(reference)) for reference in references)[1]
        return BleuCounts(matched, tuple(max(0, len(candidate) - n + 1) for n in ORDERS), len(candidate), closest)

    def __add__(self, other: "BleuCounts") -> "BleuCounts":
        return self._with(other, 1)

    def __sub__(self, other: "BleuCounts") -> "BleuCounts":
        return self._with(other, -1)

    def _with(self, other: "BleuCounts", sign: int) -> "BleuCounts":
        return BleuCounts(
            tuple(a + sign * b for a, b in zip(self.matched, other.matched, strict=True)),
            tuple(a + sign * b for a, b in zip(self.generated, other.generated, strict=True)),
            self.length + sign * other.length,
            self.reference_length + sign * other.reference_length,
        )

    def scores(self) -> list[float]:
        """BLEU-1 … BLEU-4 (Papineni et al. 2002, section 2.3): geometric mean of precisions times brevity penalty."""
        ratio = (self.length + _TINY) / (self.reference_length + _SMALL)
        brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        found, product = [], 1.0
        for order, matched, generated in zip(ORDERS, self.matched, self.generated, strict=True):
            product *= (matched + _TINY) / (generated + _SMALL)
            found.append(product ** (1 / order) * brevity)
        return found
