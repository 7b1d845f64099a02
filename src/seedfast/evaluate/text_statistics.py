"""Statistics of generated text, on tokens: how varied it is, and how much it repeats itself.

Each is a sum over all texts divided by a sum, so a long text counts for more than a short one; for texts of one length
(the papers' case) these are the means over texts. They say nothing about quality: uniform noise is the most varied.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

Texts = Sequence[Sequence[Hashable]]
"""Texts as tokens: ids, or words."""


def _grams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def distinct(texts: Texts, n: int) -> float:
    """distinct-n: different n-grams over n-grams, all texts together (Li et al. 2016, section 5.2); 1 has no repeats.

    It falls with the amount of text, so only equal amounts compare. NaN where no text has n tokens.
    """
    grams = list(chain.from_iterable(_grams(text, n) for text in texts))
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Texts, n: int) -> float:
    """seq-rep-n: the share of n-grams that stood in the same text before (Welleck et al. 2020, equation 9).

    0 has no repeats; a loop comes near 1. NaN where no text has n tokens.
    """
    repeated, total = (sum(column) for column in zip((0, 0), *(repeats(text, n) for text in texts), strict=True))
    return repeated / total if total else math.nan


def repeats(text: Sequence[Hashable], n: int) -> tuple[int, int]:
    """The n-grams of a text that stood before in it, and all of them."""
    grams = _grams(text, n)
    return len(grams) - len(set(grams)), len(grams)


def entropy(texts: Texts) -> float:
    """Unigram entropy in nats: the mean over tokens of -ln(the token's frequency in its own text).

    Low where a text dwells on few tokens (Dieleman et al. 2022, section 6). At most ln(tokens of a text). NaN without
    tokens.
    """
    total = sum(map(len, texts))
    return sum(map(entropy_nats, texts)) / total if total else math.nan


def entropy_nats(text: Sequence[Hashable]) -> float:
    """The sum over the tokens of a text of -ln(the token's frequency in it)."""
    return sum(-count * math.log(count / len(text)) for count in Counter(text).values())


def statistics(texts: Texts) -> dict[str, float]:
    """The usual ones by name: distinct_1 … distinct_3, repetition_4 and entropy; those without a value are left out."""
    values = {
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "repetition_4": repetition(texts, 4),
        "entropy": entropy(texts),
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}
