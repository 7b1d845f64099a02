"""How varied texts are: the nats per token by which they predict themselves.

Each text is scored by an n-gram model that has read the other texts, and reads this one while it predicts it: orders 1
to 4, interpolated as Witten and Bell 1991 do,

    p_k(x | c) = (count(c x) + T(c) p_{k-1}(x | c')) / (count(c) + T(c))

in which c' is the context c without its first token, T(c) the number of different tokens after c, and p_0 = 1/V. A loop
predicts itself, samples that are alike predict each other, and text at a low temperature is predictable although it
has the usual letters: its unigram entropy notices none of the three. The number depends on the amount of text, so only
equal amounts compare.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

ORDER = 4
"""The longest n-grams."""

Text = Sequence[Hashable]


class _Grams:
    """Counts of n-grams: after each context, how often each token, how many in all, and how many different ones."""

    def __init__(self) -> None:
        self.after, self.total, self.kinds = Counter[Hashable](), Counter[Hashable](), Counter[Hashable]()

    def add(self, contexts: Sequence[Hashable], token: Hashable, amount: int) -> None:
        """Count a token after each of its contexts (amount 1), or take it back (-1)."""
        for context in contexts:
            before = self.after[context, token]
            self.after[context, token] = before + amount
            self.total[context] += amount
            self.kinds[context] += (before == 0) - (before + amount == 0)

    def probability(self, contexts: Sequence[Hashable], token: Hashable, vocabulary: int) -> float:
        """p(token | contexts), the shortest context first."""
        p = 1 / vocabulary
        for context in contexts:
            if total := self.total[context]:
                kinds = self.kinds[context]
                p = (self.after[context, token] + kinds * p) / (total + kinds)
        return p


def own_nats(texts: Sequence[Text], vocabulary: int) -> list[float]:
    """The nats of each text, given all others and its own beginning. vocabulary: V."""
    grams, found = _Grams(), []
    for text in texts:
        for contexts, token in _places(text):
            grams.add(contexts, token, 1)
    for text in texts:
        for contexts, token in _places(text):
            grams.add(contexts, token, -1)
        nats = 0.0
        for contexts, token in _places(text):
            nats -= math.log(grams.probability(contexts, token, vocabulary))
            grams.add(contexts, token, 1)
        found.append(nats)
    return found


def _places(text: Text) -> Iterator[tuple[list[Hashable], Hashable]]:
    """Each token with its contexts in the text, of 0 to 3 tokens, the shortest first."""
    for place, token in enumerate(text):
        yield [tuple(text[place - size : place]) for size in range(min(ORDER - 1, place) + 1)], token
