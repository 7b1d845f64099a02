"""How good a captioner's captions are: every metric with its standard error, and what the nearest picture would say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from seedfast.data.caption.dataset import Captions
from seedfast.errors import UserError
from seedfast.evaluate.text_statistics import distinct
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.family import CaptionFamily, seen_of
from seedfast.families.caption.metrics import BleuCounts, Frequencies, Words, cider, rouge_l, words
from seedfast.families.caption.request import CaptionRequest
from seedfast.families.caption.samples import CaptionSamples


@dataclass(frozen=True)
class Measured:
    """A metric over a set of images, with its standard error (NaN for one that has none, or for a single image)."""

    value: float
    standard_error: float = math.nan


def measure(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Measured]:
    """exact_match, cider, rouge_l, bleu_1 … bleu_4, distinct_1 and distinct_2 of one caption for each image.

    On the words of `overlap.words`; the n-gram frequencies of CIDEr-D are those of these references. Standard errors
    are from the spread between images: for BLEU, which is no mean, by the jackknife.
    """
    candidates = [words(each) for each in said]
    known = [[words(reference) for reference in several] for several in references]
    frequencies = Frequencies.of(known)
    means: dict[str, Callable[[Words, Sequence[Words]], float]] = {
        "exact_match": lambda own, theirs: float(list(own) in [list(each) for each in theirs]),
        "cider": lambda own, theirs: cider(own, theirs, frequencies),
        "rouge_l": rouge_l,
    }
    found = {
        name: _mean([metric(own, theirs) for own, theirs in zip(candidates, known, strict=True)])
        for name, metric in means.items()
    }
    counts = [BleuCounts.of(own, theirs) for own, theirs in zip(candidates, known, strict=True)]
    total = sum(counts[1:], counts[0])
    without = np.array([(total - each).scores() for each in counts])
    errors = [_jackknife(without[:, order]) for order in range(4)]
    for order, (value, error) in enumerate(zip(total.scores(), errors, strict=True), start=1):
        found[f"bleu_{order}"] = Measured(value, error)
    return found | {f"distinct_{n}": Measured(distinct(candidates, n)) for n in (1, 2)}


def _mean(values: Sequence[float]) -> Measured:
    array = np.array(values)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return Measured(float(array.mean()), error)


def _jackknife(without: npt.NDArray[np.float64]) -> float:
    """The standard error of a statistic from its values without each of n cases in turn (Efron & Stein 1981)."""
    n = len(without)
    return math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum())) if n > 1 else math.nan


def nearest_captions(train: Captions, asked: Captions, ids: Sequence[int], *, chunk: int = 256) -> list[str]:
    """The first caption of the training image whose pixels are nearest (in squared distance) to each asked image's.

    What can be had without learning: a captioner has to beat it.
    """
    answers: list[str] = []
    for start in range(0, len(ids), chunk):
        asked_BD = asked.pixels(ids[start : start + chunk]).flatten(1).float()
        nearest_B = torch.full((len(asked_BD),), math.inf)
        found_B = torch.zeros(len(asked_BD), dtype=torch.int64)
        for begin in range(0, len(train), 8 * 1024):
            rows = range(begin, min(begin + 8 * 1024, len(train)))
            there_ND = train.pixels(rows).flatten(1).float()
            # |a - b|² without |a|², which is the same for all b
            distance_B, place_B = (there_ND.square().sum(1) - 2 * asked_BD @ there_ND.T).min(dim=1)
            closer_B = distance_B < nearest_B
            nearest_B = torch.where(closer_B, distance_B, nearest_B)
            found_B = torch.where(closer_B, place_B + begin, found_B)
        answers += [train.captions[i][0] for i in found_B.tolist()]
    return answers


@dataclass(frozen=True)
class Report:
    """Captions of held-out images, what they are worth, and what the baseline's are worth."""

    samples: CaptionSamples
    metrics: dict[str, Measured]
    baseline: dict[str, Measured]
    step: int
    weights: str


def report(model: Trained, request: CaptionRequest, *, limit: int | None = None, seed: int = 1) -> Report:
    """Caption held-out images as the request says (its images are replaced), and measure.

    limit: so many of them, spread over all. Raises UserError if the model is no captioner.
    """
    from dataclasses import replace

    from seedfast.loop.session import data_of

    if not isinstance(model.family, CaptionFamily):
        raise UserError(f"The run {model.run.recipe} trains no captioner, so it has no captions to measure.")
    corpus = data_of(model.run, model.checkpoint).load()
    count = len(corpus.validation) if limit is None else min(limit, len(corpus.validation))
    ids = [i * len(corpus.validation) // count for i in range(count)]
    samples = model.sample(replace(request, seen=seen_of(corpus.validation, ids), image=(), num=1), seed=seed)
    assert isinstance(samples, CaptionSamples)
    references = samples.seen.references
    said = [captions[0].text for captions in samples.written]
    baseline = nearest_captions(corpus.train, corpus.validation, ids)
    step = model.checkpoint.step if model.checkpoint else 0
    return Report(samples, measure(said, references), measure(baseline, references), step, model.weights)
