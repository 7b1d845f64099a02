"""The task of a recipe: a few examples as the network meets them."""

from seedfast.errors import UserError
from seedfast.families.family import Preview
from seedfast.loop.config import Run
from seedfast.loop.left_out import batch_of
from seedfast.loop.tasks import positions_task


def preview(run: Run, *, count: int, step: int | None = None) -> list[Preview]:
    """The first examples of a training step, or (None) with every curriculum at its end.

    Raises UserError if there is nothing to show.
    """
    if count < 1 or (step is not None and step < 0):
        raise UserError(
            f"There is nothing to show in {count} examples of step {step}; ask for at least 1, of step 0 on."
        )
    corpus = run.data.load()
    family = run.objective.build(corpus.assets)
    if family.preview is None:
        raise UserError(f"Only the tasks of text families can be shown as text, not that of {run.recipe}.")
    order = corpus.order(seed=run.seed, batch_size=run.batch_size)
    shown: list[Preview] = []
    first = step or 0
    for number in range(first, first + -(-count // run.batch_size)):  # one step has a batch of examples
        start = batch_of(run.skip, number) * run.batch_size
        objective = family.objective if step is None else family.objective.for_step(number)
        stop = start + min(run.batch_size, count - len(shown))
        shown += family.preview(*positions_task(run, objective, corpus.train, order, start, stop))
    return shown
