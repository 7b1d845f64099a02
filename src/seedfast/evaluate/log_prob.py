"""The log-probability of any text under a trained model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
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
        if not isinstance(text, str):
            raise UserError(f"Text {number + 1} is {text!r:.40} ({type(text).__name__}), and no text.")
        tokens = assets.tokenizer.encode(text)
        if not tokens:
            raise UserError(f"Text {number + 1} is empty, so it has no tokens to score.")
        stream = [assets.tokenizer.end_of_text, *tokens]  # a text begins after the end of another, as in training
        nats = 0.0
        for window, start in enumerate(range(0, len(tokens), assets.context)):
            tokens_L = torch.tensor(stream[start : start + assets.context + 1])
            batch = {
                "tokens": tokens_L.expand(draws, -1),
                "scored": torch.ones(draws, len(tokens_L) - 1, dtype=torch.bool),
            }
            if assets.prompt:  # the tokens before the window, at the end of the prompt's places
                before = stream[1 : start + 1][-assets.prompt :]
                empty = assets.prompt - len(before)
                prompt_P = torch.tensor([assets.tokenizer.end_of_text] * empty + before)
                batch["prompt"] = prompt_P.expand(draws, -1)
                batch["prompt_real"] = (torch.arange(assets.prompt) >= empty).expand(draws, -1)
            total_B = torch.zeros(draws, dtype=torch.float64)
            for rows in torch.split(torch.arange(draws), max(1, LOGITS // (assets.tokenizer.size * len(tokens_L)))):
                keyed = Draws(seed=seed, scope=f"log-prob/{window}", positions_B=number * draws + rows, group=draws)
                task = objective.task({name: each[rows] for name, each in batch.items()}, keyed)
                with model.distributed.autocast():
                    terms = objective.loss(model.network, task.to(model.distributed.device), model.state)
                total_B[rows] = terms.total_B.double().cpu()
            nats += float(total_B.mean())
        found.append(-nats)
    return found
