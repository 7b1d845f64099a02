"""Where the samples of a model lie between dull and wrong: the frontier, and its area.

A judge's nats per token fall when a sampler repeats itself, and the variety of its text rises when it writes noise, so
neither number alone tells good text: a sampler without a single parameter tops each. Both together are a point

    x   variety: the nats per token by which the texts predict themselves (`variety.py`)
    y   the judge's nats per token

and a sampler is the curve of its points at several temperatures. As much held-out text is the point (X, Y).
A point is *worth* the rectangle of all points that are both duller and less likely than it, from x = 0 to its x and
from its y to y = ln V, the nats of a guess among V tokens. The **area** of a frontier is what the points of a sampler
leave of the rectangle of held-out text, as a part of it:

    A = 1 - |union of the rectangles ∩ that of held-out text| / (X (ln V - Y))

the area between the curve, as a staircase, and the point of held-out text; the complement of the hypervolume of Zitzler
and Thiele 1999. It is 0 where a point is as varied and as likely as held-out text, and smaller is better. It is 1 for a
single token that is repeated (x → 0) and for uniform noise (y ≥ ln V on average, by Gibbs' inequality). Points are not
joined by lines: the mean of a dull text and a noisy one lies on a line between them, and is no better text than either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from seedfast import keys
from seedfast.data.dataset import Integers
from seedfast.evaluate.text_statistics import entropy_nats, repeats
from seedfast.evaluate.variety import own_nats
from seedfast.loop.standard_error import Floats, blocks_of

REPLICATES = 1000
"""Bootstrap samples of the texts."""
_N = 4  # of the n-grams


@dataclass(frozen=True)
class TextSums:
    """Sums over each of N texts, float64 [N], whose ratios are a point.

    nats, scored: under the judge, and the tokens that it scored. bytes: of these tokens. own, tokens: the nats by which
    the texts predict themselves, and all tokens. surprise: for the unigram entropy. repeated, grams: the n-grams that
    stood before in their text, and all of them. documents: of held-out texts, as any numbers; None for samples.
    """

    nats: Floats
    scored: Floats
    bytes: Floats
    own: Floats
    surprise: Floats
    tokens: Floats
    repeated: Floats
    grams: Floats
    documents: Integers | None = None

    @classmethod
    def of(
        cls,
        texts: Sequence[Sequence[int]],
        nats: Floats,
        scored: Floats,
        sizes: Floats,
        *,
        vocabulary: int,
        sets: int = 1,
        documents: Integers | None = None,
    ) -> Self:
        """texts: as tokens of the judge, of which there are `vocabulary`. nats, scored, sizes: nats, tokens and bytes
        that were scored of each. sets: text i belongs to the set i % sets, and is predicted by the texts of its set.
        """
        own = np.zeros(len(texts))
        for number in range(sets):
            own[number::sets] = own_nats(texts[number::sets], vocabulary)
        repeated, grams = np.array([repeats(text, _N) for text in texts], np.float64).reshape(-1, 2).T
        surprise = np.array(list(map(entropy_nats, texts)), np.float64)
        sizes_N = np.array(list(map(len, texts)), np.float64)
        return cls(nats, scored, sizes, own, surprise, sizes_N, repeated, grams, documents)

    def ratios(self, counts_RN: Floats) -> "Ratios":
        """The ratios of the texts, each counted as often as in a row of `counts_RN`."""

        def ratio(over: Floats, under: Floats) -> Floats:
            below = counts_RN @ under
            return np.divide(counts_RN @ over, below, out=np.zeros_like(below), where=below > 0)

        return Ratios(
            nats=ratio(self.nats, self.scored),
            bits_per_byte=ratio(self.nats, self.bytes) / math.log(2),
            variety=ratio(self.own, self.tokens),
            entropy=ratio(self.surprise, self.tokens),
            repetition=ratio(self.repeated, self.grams),
        )

    def resampled(self, seed: int) -> "Ratios":
        """The ratios of bootstrap samples of the texts (Efron 1979), or of blocks of held-out ones (Carlstein 1986).

        The same texts are drawn in all calls of a seed with as many texts, so points of the same samples at other
        temperatures move together.
        """
        block_N = np.arange(len(self.nats)) if self.documents is None else blocks_of(self.documents)
        size = int(block_N[-1]) + 1
        drawn_RG = keys.randint(keys.derive(seed, "frontier", "texts"), torch.arange(REPLICATES), size, high=size)
        counts_RG = torch.zeros(REPLICATES, size, dtype=torch.float64)
        counts_RG.scatter_add_(1, drawn_RG, torch.ones_like(drawn_RG, dtype=torch.float64))
        return self.ratios(counts_RG.numpy()[:, block_N])


@dataclass(frozen=True)
class Ratios:
    """The numbers of R sets of texts, float64 [R]."""

    nats: Floats
    bits_per_byte: Floats
    variety: Floats
    entropy: Floats
    repetition: Floats


def area(points: Sequence[Ratios], real: Ratios, guess: float) -> Floats:
    """The area of the frontier of these points, [R]; NaN where the judge does no better than to guess. guess: ln V."""
    height, width = guess - real.nats, real.variety
    with np.errstate(divide="ignore", invalid="ignore"):
        x_RP = np.stack([each.variety / width for each in points], axis=1).clip(0, 1)
        y_RP = np.stack([(guess - each.nats) / height for each in points], axis=1).clip(0, 1)
    order_RP = np.argsort(-x_RP, axis=1, kind="stable")
    x_RP, y_RP = np.take_along_axis(x_RP, order_RP, axis=1), np.take_along_axis(y_RP, order_RP, axis=1)
    next_RP = np.pad(x_RP[:, 1:], ((0, 0), (0, 1)))
    dominated = ((x_RP - next_RP) * np.maximum.accumulate(y_RP, axis=1)).sum(axis=1)
    return np.where((height > 0) & (width > 0), 1 - dominated, math.nan)


def area_of(points: Sequence[TextSums], real: TextSums, guess: float, *, seed: int) -> tuple[float, float]:
    """The area of a frontier and its standard error, by the bootstrap over the samples and over the held-out texts; NaN
    for a single one."""
    value = area([each.ratios(np.ones((1, len(each.nats)))) for each in points], real.ratios(_once(real)), guess)
    drawn = area([each.resampled(seed) for each in points], real.resampled(seed + 1), guess)
    is_single = min(len(each.nats) for each in (*points, real)) < 2
    return float(value[0]), math.nan if is_single else float(np.std(drawn, ddof=1))


def _once(texts: TextSums) -> Floats:
    return np.ones((1, len(texts.nats)))
