"""A look at the task: a few examples as the network meets them."""

import torch

from seedfast.data.sample_order import Order
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.text.base import TextFamily
from seedfast.families.text.preview import Exercise
from seedfast.keys import Draws
from seedfast.loop.config import Run


def preview(run: Run, *, count: int, step: int | None = None) -> list[Exercise]:
    """The first examples of a step of training, or (None) with every curriculum at its end.

    Raises UserError if there are none to look at.
    """
    if count < 1 or (step is not None and step < 0):
        raise UserError(
            f"There is nothing to see in {count} examples of step {step}; ask for at least 1, of step 0 on."
        )
    corpus = run.data.load()
    family: Family = run.objective.build(corpus.assets)
    if not isinstance(family, TextFamily):
        raise UserError(f"Only the tasks of text families can be shown as text, not that of {run.recipe}.")
    start = 0 if step is None else step * run.batch_size
    batch = corpus.train.batch(Order(size=len(corpus.train), seed=run.seed).ids(start, start + count))
    positions_B = torch.arange(start, start + count)
    draws = Draws(seed=run.seed, scope="train", positions_B=positions_B, group=max(count, run.batch_size))
    shown = family if step is None else family.at(step)
    assert isinstance(shown, TextFamily)
    return shown.exercises(batch, shown.task(batch, draws))
