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

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import no_validation, rows
from seedfast.evaluate.passages import Conversion, Passage, documents_among, real_windows, spread_ids
from seedfast.evaluate.text_statistics import statistics
from seedfast.evaluate.trained import Trained
from seedfast.families.family import Objective
from seedfast.families.generator import Request, Samples
from seedfast.families.text.request import TextSamples
from seedfast.files import finite
from seedfast.keys import Draws
from seedfast.loop.standard_error import document_numbers, ratio_of_sums

_BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """The likelihood of texts under a judge, and their variety.

    loss: nats per token of the judge's tokens, without each text's first token where that follows nothing.
    standard_error: of `loss`, from the spread between texts, and of held-out ones between blocks of neighbours; NaN
    for a single one.
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


def judge(texts: Sequence[str], by: Trained) -> Judgement:
    """Score texts by an autoregressive model.

    Raises UserError if the judge is none, or if a text is too short or too long for it.
    """
    tokenizer = likelihood(by)[0].tokenizer
    encoded = [tokenizer.encode(text) for text in texts]
    return score([Passage(ids, [False] * len(ids)) for ids in encoded], by)


@torch.no_grad()
def nats_of(passages: Sequence[Passage], by: Trained) -> tuple[Tensor, Tensor]:
    """The nats of each passage under an autoregressive model, and its scored tokens, float64 [N].

    Scored are the written tokens, each after those before it. Raises UserError if the judge is none, or if a passage
    has nothing to score or is too long for it.
    """
    assets, objective = likelihood(by)
    if not passages or not all(each.scored_ids for each in passages):
        raise UserError("A judge needs texts of at least two tokens each: the first one follows nothing.")
    if (longest := max(len(each.ids) for each in passages)) > assets.context + 1:
        raise UserError(
            f"A text has {longest} tokens, but the judge was trained on {assets.context} at most; "
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
    return torch.cat(totals_N), torch.cat(weights_N)


def begun(passages: Sequence[Passage], by: Trained) -> list[Passage]:
    """Passages as a judge reads them: after its beginning-of-text, if it has one, so that the first token follows
    something, and is scored."""
    begin = by.tokenizer.beginning_of_text
    if begin is None:
        return list(passages)
    return [each._replace(ids=[begin, *each.ids], given=[True, *each.given]) for each in passages]


def score(passages: Sequence[Passage], by: Trained) -> Judgement:
    """Score the written tokens of passages by an autoregressive model. Raises UserError as `nats_of` does."""
    tokenizer, passages = likelihood(by)[0].tokenizer, begun(passages, by)
    totals_N, weights_N = nats_of(passages, by)
    loss, error, _ = ratio_of_sums(totals_N, weights_N, documents_among(passages))
    tokens = int(weights_N.sum())
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
    cut_to: int | None
    decoding: str
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
            **({} if self.cut_to is None else {"cut_to_tokens": self.cut_to}),
            "decoding": self.decoding,
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
        self.check(model)
        assert self.request is not None
        return self.of(model, model.sample(self.request, seed=self.seed))

    def check(self, model: Trained) -> None:
        """Raise UserError where the model cannot be judged, before sampling takes its time."""
        assert self.by is not None
        likelihood(self.by)
        if reason := no_validation(model):
            raise UserError(reason)

    def of(self, model: Trained, samples: Samples) -> Judged:
        """Score samples of this request. Texts that are too long for the judge are cut, held-out ones too."""
        assert self.by is not None
        assert self.request is not None
        texts = written_texts(samples, model)
        written = passages_of(texts, model, self.by)
        long_enough = [each for each in written if each.scored_ids]
        if not long_enough:
            raise UserError(
                f"None of the {len(written)} samples has a token that the judge could score, since the first of a text "
                "follows nothing: ask for longer samples with --sampling.tokens."
            )
        length = max(map(len, texts.tokens))
        real = held_out(model, self.by, count=len(written), length=length, given=given(texts))
        most = longest(self.by)
        return Judged(
            samples=score(long_enough, self.by),
            real_text=score(real, self.by),
            too_short=len(written) - len(long_enough),
            cut_to=most if most in {len(each.ids) for each in (*written, *real)} else None,
            decoding=model.decoding(self.request),
            judge=self.by.committed.folder,
            judge_of_same_data=_trained_on(self.by) == model.corpus.fingerprint.files,
            weights=model.weights,
            step=model.step,
        )


def written_texts(samples: Samples, model: Trained) -> TextSamples:
    """Samples as texts. Raises UserError for others, which no language model can judge."""
    if not isinstance(samples, TextSamples):
        raise UserError(f"Only texts can be judged by a language model, and {model.run.recipe} generates none.")
    return samples


def longest(by: Trained) -> int:
    """The most tokens of a passage that a judge can score."""
    return likelihood(by)[0].context + (by.tokenizer.beginning_of_text is None)


def passages_of(texts: TextSamples, model: Trained, by: Trained) -> list[Passage]:
    """Texts as tokens of a judge, cut to those that it can score."""
    convert = Conversion(model.tokenizer, by.tokenizer)
    return [convert(*pair).cut(longest(by)) for pair in zip(texts.tokens, texts.fixed, strict=True)]


def given(texts: TextSamples) -> int:
    """The number of tokens that were given at the beginning of every text."""
    return min(map(_leading, texts.fixed))


def held_out(model: Trained, by: Trained, *, count: int, length: int, given: int) -> list[Passage]:
    """Windows of held-out text of up to `length` tokens as those of a judge, cut as `passages_of` cuts.

    given: the first tokens of each that are not scored. Windows with nothing to score are left out.
    """
    assert isinstance(model.assets, TextAssets)
    convert, validation = Conversion(model.tokenizer, by.tokenizer), model.corpus.validation
    windows = real_windows(model.assets, validation, count, length)
    passages = [convert(ids, [place < given for place in range(len(ids))]).cut(longest(by)) for ids in windows]
    numbers = document_numbers(validation, spread_ids(validation, count))
    if numbers is not None:
        passages = [each._replace(document=number) for each, number in zip(passages, numbers.tolist(), strict=True)]
    return [each for each in passages if each.scored_ids]


def _leading(fixed: Sequence[bool]) -> int:
    """The number of tokens that were given at the beginning."""
    return fixed.index(False) if False in fixed else len(fixed)


def _trained_on(by: Trained) -> dict[str, str]:
    """The digests of the files that a run was trained on."""
    return by.committed.fingerprint.files


def likelihood(by: Trained) -> tuple[TextAssets, Objective[Any]]:
    """The assets and the objective of a judge. Raises UserError for a model that is none."""
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
