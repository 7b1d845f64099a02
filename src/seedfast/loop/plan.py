"""The length and the intervals of a run in steps, which may be given in epochs."""

import math
from dataclasses import dataclass, replace

from seedfast.loop.config import VALIDATION, Run
from seedfast.options import epochs_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run in steps. examples: of the training data, an epoch. sample_every: None for each validation."""

    steps: int
    eval_every: int
    sample_every: int | None
    save_every: int
    batch_size: int
    examples: int

    @classmethod
    def of(cls, run: Run, examples: int) -> "Plan":
        """The plan of a run with this number of training examples. Intervals in epochs are rounded to whole steps."""

        def steps(every: int | str) -> int:
            epochs = epochs_of(every)
            return int(every) if epochs is None else max(1, round(epochs * examples / run.batch_size))

        return cls(
            steps=run.steps,
            eval_every=steps(run.eval_every),
            sample_every=None if run.sample_every == VALIDATION else steps(run.sample_every),
            save_every=steps(run.save_every),
            batch_size=run.batch_size,
            examples=examples,
        )

    def samples(self, step: int, *, validating: bool) -> bool:
        """Whether samples follow a step. validating: whether this is a step that validations follow."""
        return validating if self.sample_every is None else is_due(step, self.sample_every)

    def epoch(self, step: int) -> float:
        """The passes over the training examples that `step` steps are."""
        return round(step * self.batch_size / self.examples, 4)


def is_due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps (0: never) is done after this one."""
    return every > 0 and step % every == 0


def with_steps(run: Run, examples: int) -> Run:
    """The run with its length in steps, if it is given in epochs: the fewest that see every example that often."""
    if run.epochs is None:
        return run
    return replace(run, epochs=None, steps=max(1, math.ceil(run.epochs * examples / run.batch_size)))
