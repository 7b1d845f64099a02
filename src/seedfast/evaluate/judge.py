"""Generated text before a judge: an autoregressive model of the same data says how likely it finds it.

A model's own score is none: it is sure of what it repeats, and less sure of what people write. Nor is the judge's
alone: the likeliest text repeats itself. So the text's variety stands beside it, and the same numbers of real text.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedfast.data.dataset import Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.text_statistics import statistics
from seedfast.evaluate.trained import Trained
from seedfast.families.family import Request
from seedfast.families.text.autoregressive import AutoregressiveModel
from seedfast.families.text.base import TextFamily
from seedfast.families.text.request import TextSamples
from seedfast.keys import Draws
from seedfast.loop.session import data_of
from seedfast.loop.validate import ratio_of_sums

_BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """How likely a judge finds some texts, and how varied they are.

    loss: nats per token of the judge's tokens, each text's first one left out, for it follows nothing.
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
        finite = {name: value if math.isfinite(value) else None for name, value in per_token.items()}
        return {
            **finite,
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
    family = _autoregressive(by)
    tokenizer, context = family.assets.tokenizer, family.assets.context
    rows = [tokenizer.encode(text) for text in texts]
    if not rows or min(map(len, rows)) < 2:
        raise UserError("A judge needs texts of at least two tokens each: the first one follows nothing.")
    if max(map(len, rows)) > context + 1:
        raise UserError(
            f"A text has {max(map(len, rows))} tokens, but the judge was trained on {context} at most; "
            "judge shorter texts, or train a judge with a longer context."
        )
    totals_N, weights_N = [], []
    for start in range(0, len(rows), _BATCH):
        chunk = rows[start : start + _BATCH]
        task = family.task(_padded(chunk), Draws(seed=0, scope="judge", positions_B=torch.arange(len(chunk))))
        with by.distributed.autocast():
            terms = family.loss(by.network, task.to(by.distributed.device), by.state)
        totals_N.append(terms.total_B.double().cpu())
        weights_N.append(task.weight_B.double())
    loss, error = ratio_of_sums(torch.cat(totals_N), torch.cat(weights_N))
    tokens = int(torch.cat(weights_N).sum())
    size = sum(len(tokenizer.decode(row[1:]).encode()) for row in rows)
    return Judgement(
        loss=loss,
        standard_error=error,
        bits_per_byte=loss * tokens / (math.log(2) * size),
        texts=len(rows),
        tokens=tokens,
        variety=statistics(rows),
    )


def judge_samples(model: Trained, by: Trained, request: Request, *, seed: int) -> dict[str, Any]:
    """A judge's opinion of what a model writes at a request, and of as much held-out text, as JSON values.

    Raises UserError where the model writes no text, or nothing that can be judged.
    """
    _autoregressive(by)  # before anything takes its time
    samples = model.sample(request, seed=seed)
    if not isinstance(samples, TextSamples) or not isinstance(model.family, TextFamily):
        raise UserError(f"Only texts can be judged by a language model, and {model.run.recipe} writes none.")
    long_enough = [text for text in samples.texts if len(text) > 1]
    corpus = data_of(model.run, model.committed).load()
    length = max(map(len, samples.tokens))
    real = real_texts(model.family.assets, corpus.validation, len(samples.texts), length)
    own, judges = (json.loads((run.committed.folder / "data.json").read_text())["files"] for run in (model, by))
    return {
        "samples": judge(long_enough, by).record(),
        "real_text": judge(real, by).record(),
        "too_short": len(samples.texts) - len(long_enough),
        "judge": str(by.committed.folder),
        "judge_of_same_data": own == judges,
        "weights": model.weights,
        "step": model.committed.step,
    }


def _autoregressive(by: Trained) -> AutoregressiveModel:
    if not isinstance(by.family, AutoregressiveModel):
        raise UserError(
            f"A judge must be an autoregressive text run, for it gives an exact likelihood; {by.run.recipe} is none."
        )
    return by.family


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
