"""The likelihood of generated text under a judge: an autoregressive model of the same data.

A model's own score is no measure: it is sure of its repetitions, and less sure of real text. Nor is the judge's score
alone: the likeliest text repeats itself. So the variety of the text stands next to it, and the same numbers of real
text.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from seedfast.data.dataset import Dataset
from seedfast.data.text import tokenizers
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer
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

    loss: nats per token of the judge's tokens, without each text's first token where that follows nothing.
    standard_error: of `loss`, from the spread between texts; NaN for a single one.
    bits_per_byte: the same, over the UTF-8 bytes of what was scored, also of a character's part.
    tokens: the tokens that were scored. variety: distinct-n, repetition and unigram entropy of the tokens that were
    written (see `statistics`).
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
            "bits_per_byte": finite(self.bits_per_byte),
            "texts": self.texts,
            "tokens": self.tokens,
            **self.variety,
        }


class Passage(NamedTuple):
    """A text as the judge's tokens. given: which of them were given to the writer, and are not scored."""

    ids: list[int]
    given: list[bool]

    @property
    def written(self) -> list[int]:
        """The tokens that the writer wrote."""
        return [id_ for id_, given in zip(self.ids, self.given, strict=True) if not given]

    @property
    def scored(self) -> list[bool]:
        """Which tokens after the first are scored."""
        return [not given for given in self.given[1:]]

    @property
    def scored_ids(self) -> list[int]:
        """The tokens that are scored."""
        return [id_ for id_, scored in zip(self.ids[1:], self.scored, strict=True) if scored]


def judge(texts: Sequence[str], by: Trained) -> Judgement:
    """Score texts by an autoregressive model.

    Raises UserError if the judge is none, or if a text is too short or too long for it.
    """
    tokenizer = _likelihood(by)[0].tokenizer
    encoded = [tokenizer.encode(text) for text in texts]
    return score([Passage(ids, [False] * len(ids)) for ids in encoded], by)


@torch.no_grad()
def score(passages: Sequence[Passage], by: Trained) -> Judgement:
    """Score the written tokens of passages by an autoregressive model, each after those before it.

    Raises UserError if the judge is none, or if a passage has nothing to score or is too long for it.
    """
    assets, objective = _likelihood(by)
    tokenizer, context = assets.tokenizer, assets.context
    begin = tokenizer.beginning_of_text
    if begin is not None:  # it is read before a text, so the first token follows something, and is scored
        passages = [Passage([begin, *each.ids], [True, *each.given]) for each in passages]
    if not passages or not all(each.scored_ids for each in passages):
        raise UserError("A judge needs texts of at least two tokens each: the first one follows nothing.")
    if (longest := max(len(each.ids) for each in passages)) > context + 1:
        raise UserError(
            f"A text has {longest} tokens, but the judge was trained on {context} at most; "
            "judge shorter texts, or train a judge with a longer context."
        )
    totals_N, weights_N = [], []
    for start in range(0, len(passages), _BATCH):
        chunk = passages[start : start + _BATCH]
        task = objective.task(_padded(chunk), Draws(seed=0, scope="judge", positions_B=torch.arange(len(chunk))))
        with by.distributed.autocast():
            terms = objective.loss(by.network, task.to(by.distributed.device), by.state)
        totals_N.append(terms.total_B.double().cpu())
        weights_N.append(task.weight_B.double())
    loss, error = ratio_of_sums(torch.cat(totals_N), torch.cat(weights_N))
    tokens = int(torch.cat(weights_N).sum())
    size = sum(tokenizer.byte_count(each.scored_ids) for each in passages)
    return Judgement(
        loss=loss,
        standard_error=error,
        bits_per_byte=loss * tokens / (math.log(2) * size) if size else math.nan,
        texts=len(passages),
        tokens=tokens,
        variety=statistics([each.written for each in passages]),
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
    step: int | None

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
        convert = _Conversion(model.assets.tokenizer, self.by.tokenizer)
        written = [convert(*pair) for pair in zip(samples.tokens, samples.fixed, strict=True)]
        long_enough = [each for each in written if each.scored_ids]
        if not long_enough:
            raise UserError(
                f"None of the {len(written)} samples has a token that the judge could score, since the first of a text "
                "follows nothing: ask for longer samples with --sampling.tokens."
            )
        length, given = max(map(len, samples.tokens)), min(map(_leading, samples.fixed))
        windows = real_windows(model.assets, corpus.validation, len(written), length)
        real = [convert(ids, [place < given for place in range(len(ids))]) for ids in windows]
        return Judged(
            samples=score(long_enough, self.by),
            real_text=score([each for each in real if each.scored_ids], self.by),
            too_short=len(written) - len(long_enough),
            judge=self.by.committed.folder,
            judge_of_same_data=_trained_on(self.by) == corpus.fingerprint.files,
            weights=model.weights,
            step=model.step,
        )


def _leading(fixed: Sequence[bool]) -> int:
    """The number of tokens that were given at the beginning."""
    return fixed.index(False) if False in fixed else len(fixed)


_CUT = re.compile("^\ufffd{1,3}|\ufffd$")
"""What is decoded from the bytes of a character that is cut off at either end of a text."""


@dataclass(frozen=True)
class _Conversion:
    """From the tokens of a writer to those of a judge.

    The same tokenizer takes them as they are: a text that is cut inside a character could not be encoded again to the
    same tokens. Another one encodes the text of each run of given and of written tokens, without characters cut off.
    """

    writer: Tokenizer
    judge: Tokenizer

    @cached_property
    def _is_same(self) -> bool:
        return tokenizers.digest(self.writer) == tokenizers.digest(self.judge)

    def __call__(self, ids: Sequence[int], given: Sequence[bool]) -> Passage:
        if self._is_same:
            return Passage(list(ids), list(given))
        found = Passage([], [])
        for is_given, run in groupby(zip(ids, given, strict=True), key=itemgetter(1)):
            encoded = self.judge.encode(_CUT.sub("", self.writer.decode([id_ for id_, _ in run])))
            found.ids.extend(encoded)
            found.given.extend([is_given] * len(encoded))
        return found


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


def _padded(passages: Sequence[Passage]) -> dict[str, Tensor]:
    """Passages as a batch of windows; what pads them on the right is not scored, and no token before it sees it."""
    length = max(len(each.ids) for each in passages)
    tokens_BL = torch.tensor([[*each.ids, *[0] * (length - len(each.ids))] for each in passages])
    scored_BL = torch.tensor([[*each.scored, *[False] * (length - len(each.ids))] for each in passages])
    return {"tokens": tokens_BL, "scored": scored_BL}


def real_windows(assets: TextAssets, validation: Dataset, count: int, length: int) -> list[list[int]]:
    """`count` pieces of held-out text of up to `length` tokens, spread evenly over the split (fewer if it is small)."""
    count = min(count, len(validation))
    ids = [index * len(validation) // count for index in range(count)]
    windows: list[list[int]] = validation.batch(ids)["tokens"][:, 1 : 1 + length].tolist()
    end = assets.tokenizer.end_of_text
    return [window[: window.index(end)] if end in window else window for window in windows]


def real_texts(assets: TextAssets, validation: Dataset, count: int, length: int) -> list[str]:
    """The same as texts, of at least two tokens each, without characters that are cut off at their ends."""
    windows = real_windows(assets, validation, count, length)
    texts = [_CUT.sub("", text) for text in map(assets.tokenizer.decode, windows)]
    return [text for text in texts if len(assets.tokenizer.encode(text)) > 1]
