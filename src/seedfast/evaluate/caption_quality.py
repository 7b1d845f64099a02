"""Quality of generated captions: every metric with its standard error, beside a nearest-neighbour baseline."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus, CaptionDataset
from seedfast.evaluate.evaluator import no_validation
from seedfast.evaluate.text_statistics import distinct
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.generator import image_batch, spread
from seedfast.families.caption.metrics import BleuCounts, CiderScorer, Words, rouge_l, words
from seedfast.families.caption.request import CaptionRequest, Decoding
from seedfast.families.caption.samples import CaptionSamples
from seedfast.files import finite
from seedfast.options import AtLeast, Between, OnlyWith, check
from seedfast.report import caption_gallery
from seedfast.report.format import measured, spaced


@dataclass(frozen=True)
class Measured:
    """A metric over a set of images (NaN for one without a value), with its standard error (NaN: it has none)."""

    value: float
    standard_error: float = math.nan

    def record(self) -> dict[str, float | None]:
        """As JSON values."""
        return {name: finite(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return "no value" if math.isnan(self.value) else measured(self.value, self.standard_error)


_NO_CIDER = (
    "CIDEr-D needs more than one image, with different captions: words weigh the more the fewer images have them, so "
    "every caption of a single image would score 0."
)


@dataclass(frozen=True)
class CaptionReport:
    """Captions of validation images, their metrics, and the metrics of the nearest training images' captions."""

    samples: CaptionSamples
    metrics: Mapping[str, Measured]
    baseline: Mapping[str, Measured]
    recipe: str
    step: int | None
    weights: str
    decoding: str

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        metrics = {
            name: {"model": value.record(), "nearest_picture": self.baseline[name].record()}
            for name, value in self.metrics.items()
        }
        images = len(self.samples.images.names)
        model = {"step": self.step, "weights": self.weights, "decoding": self.decoding}
        return {**model, "images": images, "metrics": metrics}

    def rows(self) -> list[tuple[str, str, str]]:
        """Each metric's name, the model's value and the baseline's."""
        return [(spaced(name), str(value), str(self.baseline[name])) for name, value in self.metrics.items()]

    def table(self) -> list[str]:
        """As lines for a terminal."""
        header = ("", "model", "nearest picture")
        lines = [f"{name:<14}{model:>20}{baseline:>20}" for name, model, baseline in (header, *self.rows())]
        lines += [f"decoding: {self.decoding}"]
        return lines + ([_NO_CIDER] if math.isnan(self.metrics["cider"].value) else [])

    def write_gallery(self, folder: Path) -> Path:
        """Write captions.html, the images with their captions, into a folder; returns its path."""
        title = self.recipe or "captions" if self.step is None else f"{self.recipe}, step {self.step}"
        return caption_gallery.write(folder, self.samples, title=title, metrics=self.rows())


@dataclass(frozen=True, kw_only=True)
class CaptionQuality:
    """Captions of validation images against their references."""

    name: ClassVar[str] = "captions"

    decoding: Decoding = "beam"
    """How captions are decoded."""
    beams: Annotated[int | None, AtLeast(1), OnlyWith(decoding="beam")] = None
    """Prefixes that beam search keeps (default 4)."""
    length_penalty: Annotated[float | None, Between(0, 10), OnlyWith(decoding="beam")] = None
    """Beam search divides log-probabilities by ((5 + length) / 6)^α; this is α (default 0.6)."""
    images: Annotated[int | None, AtLeast(1)] = None
    """Number of validation images, spread evenly over all (default: all)."""

    def __post_init__(self) -> None:
        check(self)

    def fits(self, model: Trained) -> str | None:
        """None for a captioner; otherwise the reason why not."""
        if isinstance(model.assets, CaptionAssets):
            return no_validation(model)
        return f"The run {model.run.recipe} trains no captioner, so it has no captions to measure."

    def __call__(self, model: Trained) -> CaptionReport:
        """Caption validation images and measure the captions. Raises UserError if the data has changed."""
        corpus = model.corpus
        assert isinstance(corpus, CaptionCorpus)
        size = len(corpus.validation)
        ids = spread(size, size if self.images is None else min(self.images, size))
        request = CaptionRequest(
            image_batch=image_batch(corpus.validation, ids),
            decoding=self.decoding,
            beams=self.beams,
            length_penalty=self.length_penalty,
        )
        samples = model.sample(request, seed=1)
        assert isinstance(samples, CaptionSamples)
        references = samples.images.references
        nearest = nearest_captions(corpus.train, corpus.validation, ids)
        return CaptionReport(
            samples=samples,
            metrics=measure([captions[0].text for captions in samples.captions], references),
            baseline=measure(nearest, references),
            recipe=model.run.recipe,
            step=model.step,
            weights=model.weights,
            decoding=model.decoding(request),
        )


def measure(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Measured]:
    """exact_match, cider, rouge_l, bleu_1 … bleu_4, distinct_1 and distinct_2 of one caption for each image.

    All count the words of `metrics.words`; CIDEr-D takes its document frequencies from these references, and is NaN
    where they give no word a weight, as for a single image. Standard errors come from the spread between images: for
    BLEU, which is not a mean, by the jackknife.
    """
    pairs = [
        (words(caption), [words(reference) for reference in known])
        for caption, known in zip(captions, references, strict=True)
    ]
    scorer = CiderScorer(references)
    means: dict[str, Callable[[Words, Sequence[Words]], float]] = {
        "exact_match": lambda candidate, known: float(candidate in known),
        "cider": scorer if scorer.has_value else lambda candidate, known: math.nan,
        "rouge_l": rouge_l,
    }
    found = {name: _mean([metric(*pair) for pair in pairs]) for name, metric in means.items()}
    counts = [BleuCounts.of(*pair) for pair in pairs]
    total = sum(counts[1:], counts[0])
    without = np.array([(total - each).scores() for each in counts])
    errors = [_jackknife(without[:, order]) for order in range(4)]
    for order, (value, error) in enumerate(zip(total.scores(), errors, strict=True), start=1):
        found[f"bleu_{order}"] = Measured(value, error)
    return found | {f"distinct_{n}": Measured(distinct([candidate for candidate, _ in pairs], n)) for n in (1, 2)}


def _mean(values: Sequence[float]) -> Measured:
    array = np.array(values)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return Measured(float(array.mean()), error)


def _jackknife(without: npt.NDArray[np.float64]) -> float:
    """The standard error of a statistic from its values without each of the n cases (Efron & Stein 1981)."""
    n = len(without)
    return math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum())) if n > 1 else math.nan


def nearest_captions(
    train: CaptionDataset, queries: CaptionDataset, ids: Sequence[int], *, chunk: int = 256
) -> list[str]:
    """The first caption of each query image's nearest training image, by the squared distance of pixels.

    A baseline without learning, which a captioner has to beat.
    """
    captions: list[str] = []
    for start in range(0, len(ids), chunk):
        query_BD = queries.pixels(ids[start : start + chunk]).flatten(1).float()
        nearest_B = torch.full((len(query_BD),), math.inf)
        found_B = torch.zeros(len(query_BD), dtype=torch.int64)
        for begin in range(0, len(train), 8 * 1024):
            rows = range(begin, min(begin + 8 * 1024, len(train)))
            train_ND = train.pixels(rows).flatten(1).float()
            # |a - b|² without |a|², which is the same for all b
            distance_B, index_B = (train_ND.square().sum(1) - 2 * query_BD @ train_ND.T).min(dim=1)
            nearer_B = distance_B < nearest_B
            nearest_B = torch.where(nearer_B, distance_B, nearest_B)
            found_B = torch.where(nearer_B, index_B + begin, found_B)
        captions += [train.captions[i][0] for i in found_B.tolist()]
    return captions
