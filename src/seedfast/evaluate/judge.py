"""The likelihood of generated text under a judge: an autoregressive model of the same data.

A model's own score is no measure: it is sure of its repetitions, and less sure of real text. Nor is the judge's score
alone: the likeliest text repeats itself. So the variety of the text stands next to it, and the same numbers of real
text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from seedfast.data.dataset import Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.text_statistics import statistics
from seedfast.evaluate.trained import Trained
from seedfast.families.family import Objective
from seedfast.families.generator import Request
from seedfast.families.text.request import TextSamples
from seedfast.files import finite
from seedfast.keys import Draws
from seedfast.loop.validate import ratio_of_sums

_BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """The likelihood of texts under a judge, and their variety.

    loss: nats per token of the judge's tokens, without each text's first token, which follows nothing.
    standard_error: of `loss`, from the spread between texts; NaN for a single one.
    bits_per_byte: the same, over the UTF-8 bytes of what was scored.
    variety: distinct-n, repetition and unigram entropy of the texts' tokens (see `statistics`).
    """

    loss: float
    standard_error: float
    bits_per_byte: float
    texts: int
    tokens: int
    variety: dict[str, float]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        per_token = {"nats_per_token": self.loss, "standard_error": self.standard_error}
        return {
            **{name: finite(value) for name, value in per_token.items()},
            "bits_per_byte": self.bits_per_byte,
            "texts": self.texts,
            "tokens": self.tokens,
            **self.variety,
        }


@torch.no_grad()
def judge(texts: Sequence[str], by: Trained) -> Judgement:
    """Score texts by an autoregressive model.

    Raises UserError if the judge is none, or if a text is too short or too long for it.
    """
    assets, objective = _likelihood(by)
    tokenizer, context = assets.tokenizer, assets.context
    encoded = [tokenizer.encode(text) for text in texts]
    if not encoded or min(map(len, encoded)) < 2:
        raise UserError("A judge needs texts of at least two tokens each: the first one follows nothing.")
    if max(map(len, encoded)) > context + 1:
        raise UserError(
            f"A text has {max(map(len, encoded))} tokens, but the judge was trained on {context} at most; "
            "judge shorter texts, or train a judge with a longer context."
        )
    totals_N, weights_N = [], []
    for start in range(0, len(encoded), _BATCH):
        chunk = encoded[start : start + _BATCH]
        task = objective.task(_padded(chunk), Draws(seed=0, scope="judge", positions_B=torch.arange(len(chunk))))
        with by.distributed.autocast():
            terms = objective.loss(by.network, task.to(by.distributed.device), by.state)
        totals_N.append(terms.total_B.double().cpu())
        weights_N.append(task.weight_B.double())
    loss, error = ratio_of_sums(torch.cat(totals_N), torch.cat(weights_N))
    tokens = int(torch.cat(weights_N).sum())
    size = sum(len(tokenizer.decode(row[1:]).encode()) for row in encoded)
    return Judgement(
        loss=loss,
        standard_error=error,
        bits_per_byte=loss * tokens / (math.log(2) * size),
        texts=len(encoded),
        tokens=tokens,
        variety=statistics(encoded),
    )


@dataclass(frozen=True)
class Judged:
    """Samples of a model and as much held-out text, scored by one judge."""

    samples: Judgement
    real_text: Judgement
    too_short: int
    judge: Path
    judge_of_same_data: bool
    weights: str
    step: int

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "samples": self.samples.record(),
            "real_text": self.real_text.record(),
            "too_short": self.too_short,
            "judge": str(self.judge),
            "judge_of_same_data": self.judge_of_same_data,
            "weights": self.weights,
            "step": self.step,
        }

    def table(self) -> list[str]:
        """As lines for a terminal."""
        return rows(self.record())


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Samples of a run scored by a judge, an autoregressive run of the same data, beside as much held-out text."""

    name: ClassVar[str] = "judge"

    by: Trained | None = None
    """The judge."""
    request: Request | None = None
    """The request for samples."""
    seed: int = 1
    """Sample i of a seed is always the same."""

    def fits(self, model: Trained) -> str | None:
        """Text models, if there is a judge."""
        if not isinstance(model.assets, TextAssets):
            return f"Only texts can be judged by a language model, and {model.run.recipe} generates none."
        return None if self.by and self.request else "Samples are scored by a judge: name its run folder with --judge."

    def __call__(self, model: Trained) -> Judged:
        """Score samples and held-out text.

        Raises UserError where the model generates no text, the judge is not autoregressive or the data has changed.
        """
        assert self.by is not None
        assert self.request is not None
        _likelihood(self.by)  # refused before sampling takes its time
        if reason := no_validation(model):
            raise UserError(reason)
        corpus = model.corpus
        samples = model.sample(self.request, seed=self.seed)
        if not isinstance(samples, TextSamples) or not isinstance(model.assets, TextAssets):
            raise UserError(f"Only texts can be judged by a language model, and {model.run.recipe} generates none.")
        long_enough = [text for text in samples.texts if len(text) > 1]
        length = max(map(len, samples.tokens))
        real = real_texts(model.assets, corpus.validation, len(samples.texts), length)
        return Judged(
            samples=judge(long_enough, self.by),
            real_text=judge(real, self.by),
            too_short=len(samples.texts) - len(long_enough),
            judge=self.by.committed.folder,
            judge_of_same_data=_trained_on(self.by) == corpus.fingerprint.files,
            weights=model.weights,
            step=model.step,
        )


def _trained_on(by: Trained) -> dict[str, str]:
    """The digests of the files that a run was trained on."""
    return by.committed.fingerprint.files


def _likelihood(by: Trained) -> tuple[TextAssets, Objective[Any]]:
    """The assets and the objective of a judge."""
    objective = by.family.objective
    if not isinstance(by.assets, TextAssets) or objective.measure.is_bound or objective.measure.loss_unit != "nats":
        raise UserError(
            f"A judge must be an autoregressive text run, which gives an exact likelihood; {by.run.recipe} is not."
        )
    return by.assets, objective


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Texts as a batch of windows; what pads them on the right is not scored, and no token before it sees it."""
    length = max(map(len, rows))
    tokens_BL = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    size_B1 = torch.tensor([[len(row)] for row in rows])
    return {"tokens": tokens_BL, "scored": torch.arange(1, length) < size_B1}


def real_texts(assets: TextAssets, validation: Dataset, count: int, length: int) -> list[str]:
    """`count` pieces of held-out text of about `length` tokens, spread evenly over the split (fewer if it is small)."""
    count = min(count, len(validation))
    ids = [index * len(validation) // count for index in range(count)]
    windows_NL = validation.batch(ids)["tokens"][:, 1 : 1 + length]
    texts = []
    for window in windows_NL.tolist():
        end = window.index(assets.tokenizer.end_of_text) if assets.tokenizer.end_of_text in window else length
        texts.append(assets.tokenizer.decode(window[:end]))
    return [text for text in texts if len(assets.tokenizer.encode(text)) > 1]
