"""The standard error of a ratio of sums over examples of which neighbours are alike.

A value is r = Σ t / Σ w, over the totals t and the weights w of its examples. Windows of one document are alike, and so
may documents next to each other be, so n windows tell less than n independent ones. They are cut into G blocks of
consecutive windows with the sums T_g and W_g, and

    SE² = G / (G - 1) · Σ_g (T_g - r W_g)² / (Σ_g W_g)²

is the error of a ratio of sums over sampled units (Cochran 1977, "Sampling Techniques", section 6.4), with the block as
the unit: residuals of a block are added before they are squared. Where blocks are documents, this is the cluster-robust
error (Liang and Zeger 1986; of language models, the clustered standard error of Miller 2024, arXiv 2411.00640); within
one long document, that of batch means (Flegal and Jones 2010). Independent examples, such as images, are blocks of one.

Long blocks catch long dependence, few blocks make the error itself uncertain, by 1 / √(2 (G - 1)) of it. Below ten
blocks intervals grow wide, and more than thirty narrow them little (Schmeiser 1982, "Batch size effects in the analysis
of simulation output"), so there are √n, but 10 at least and 30 at most. A block ends with a document where one ends
nearby.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedfast.data.dataset import Dataset, InDocuments, Integers

Floats = npt.NDArray[np.float64]

_FEWEST, _MOST = 10, 30


class Ratio(NamedTuple):
    """A ratio of sums and its standard error, NaN for a single block. blocks: their number; None: independent
    examples."""

    value: float
    standard_error: float
    blocks: int | None = None


def ratio_of_sums(totals_E: Tensor, weights_E: Tensor, documents_E: Integers | None = None) -> Ratio:
    """Σ totals / Σ weights with its standard error.

    documents_E: the document of each example, in order (see `document_numbers`); None: the examples are independent.
    """
    weight = float(weights_E.sum())
    value = float(totals_E.sum()) / weight
    blocks = None
    if documents_E is not None:
        block_E = torch.from_numpy(blocks_of(documents_E))
        blocks = int(block_E[-1]) + 1
        totals_E, weights_E = (
            torch.zeros(blocks, dtype=torch.float64).index_add_(0, block_E, each.double())
            for each in (totals_E, weights_E)
        )
    count, residuals_G = len(totals_E), totals_E - value * weights_E
    spread = float(residuals_G.square().sum())
    return Ratio(value, math.sqrt(spread * count / (count - 1)) / weight if count > 1 else math.nan, blocks)


def error_of_difference(
    whole: tuple[Tensor, Tensor], part: tuple[Tensor, Tensor], examples_P: Tensor, documents_E: Integers | None = None
) -> float:
    """The standard error of Σ totals / Σ weights over a whole split, minus such a ratio over a part of its examples.

    What makes an example hard moves both ratios, so their errors are not independent: the residuals of both are
    subtracted in each block, and then squared. NaN where all examples of one ratio lie in a single block.
    whole, part: totals and weights [E] and [P]. examples_P: the places of the part in the split. documents_E: of
    `ratio_of_sums`, for the whole split.
    """
    block_E = torch.arange(len(whole[0])) if documents_E is None else torch.from_numpy(blocks_of(documents_E))
    sums = []
    for (totals, weights), block in ((whole, block_E), (part, block_E[examples_P])):
        count, weight = len(set(block.tolist())), float(weights.sum())
        if count < 2:
            return math.nan
        residuals = totals - float(totals.sum()) / weight * weights
        sum_G = torch.zeros(int(block_E[-1]) + 1, dtype=torch.float64).index_add_(0, block, residuals)
        sums.append(sum_G * math.sqrt(count / (count - 1)) / weight)
    return float((sums[0] - sums[1]).square().sum().sqrt())


def document_numbers(dataset: Dataset, examples: npt.ArrayLike) -> Integers | None:
    """The document of each of these examples, int64 [E]; None where examples of the data set are independent."""
    return dataset.documents(np.asarray(examples, np.int64)) if isinstance(dataset, InDocuments) else None


def blocks_of(documents_E: Integers) -> Integers:
    """The block of each of consecutive examples, int64 [E], from 0 on. documents_E: the document of each."""
    size = len(documents_E)
    is_cut_E = np.append(documents_E[1:] == documents_E[:-1], False)
    bounds = cut(np.arange(1, size + 1), is_cut_E, block_count(size))
    return np.searchsorted(bounds[1:], np.arange(size), side="right")


def block_count(examples: int) -> int:
    """The number of blocks that consecutive examples are cut into."""
    return min(examples, max(_FEWEST, min(_MOST, math.isqrt(examples))))


def cut(edges_K: npt.ArrayLike, misses_K: npt.ArrayLike, count: int) -> Floats:
    """The bounds of `count` parts of about equal length, from 0 to the last of the ascending edges, [count + 1].

    Each bound is an edge: of those within half a part of its place, one of the smallest miss, and of these the nearest.
    Without one there, the two parts are one.
    """
    edges_K, misses_K = np.asarray(edges_K, np.float64), np.asarray(misses_K)
    end, bounds = float(edges_K[-1]), [0.0]
    for number in range(1, count):
        distance_K = abs(edges_K - end * number / count)
        near = np.flatnonzero(distance_K < end / count / 2)
        if len(near):
            bounds.append(float(edges_K[near[np.lexsort((distance_K[near], misses_K[near]))[0]]]))
    return np.array([*bounds, end])
