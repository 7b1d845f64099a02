"""The log-probability of any text under a trained model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.text_windows import encoded, text_windows
from seedfast.keys import Draws

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained


LOGITS = 1 << 24
"""Largest number of logits of one evaluation, unless one window alone has more."""


@torch.no_grad()
def log_prob(model: "Trained", texts: Sequence[str], *, seed: int = 1) -> list[float]:
    """log p(text) in nats of each text, without its end; a lower bound (-NELBO) where the loss is a bound.

    A text is cut into consecutive windows of the model's context, each of which is scored after the last token of the
    one before, as the validation split is. The estimate of a bound is the mean over the objective's draws.
    Raises UserError for a model whose loss is no likelihood of text, or a text without tokens.
    """
    assets, objective = model.assets, model.family.evaluated
    if not isinstance(assets, TextAssets) or objective.measure.loss_unit != "nats":
        raise UserError(f"A model of {model.run.recipe} has no likelihood of texts.")
    draws = objective.measure.draws or 1
    found = []
    for number, text in enumerate(texts):
        nats = 0.0
        tokens = encoded(assets.tokenizer, text, f"Text {number + 1}")
        for window, (_, batch) in enumerate(text_windows(assets, tokens)):
            total_B = torch.zeros(draws, dtype=torch.float64)
            logits = assets.tokenizer.size * batch["tokens"].shape[1]
            for rows in torch.split(torch.arange(draws), max(1, LOGITS // logits)):
                keyed = Draws(seed=seed, scope=f"log-prob/{window}", positions_B=number * draws + rows, group=draws)
                same = {name: each.expand(len(rows), -1) for name, each in batch.items()}
                task = objective.task(same, keyed)
                with model.distributed.autocast():
                    terms = objective.loss(model.network, task.to(model.distributed.device), model.state)
                total_B[rows] = terms.total_B.double().cpu()
            nats += float(total_B.mean())
        found.append(-nats)
    return found
