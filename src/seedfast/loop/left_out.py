"""Examples that a run leaves out: those of whole steps (`skip`), and single ones by their ids (`without`).

Both leave everything else as it is to the last bit. The sample stream and its noise are functions of positions in the
stream: a run that skips steps jumps over their positions, and each later example keeps its own noise. The place of a
single example stays where it is, with weight zero: an example that is not left out stands in for it, so nothing of it
reaches the network, and the weight that the step divides by is that of the others.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from seedfast.console import track
from seedfast.data.sample_order import SampleOrder
from seedfast.errors import TrainingStopped, UserError
from seedfast.options import Rule

_RANGE = re.compile(r"(\d{1,12})(?:-(\d{1,12}))?")


class StepRange(Rule):
    """A range of steps as the journal counts them, from 1: "120-140", or one step."""

    def description(self, prefix: str = "") -> str:
        return "a step, or a range such as 120-140"

    def allows(self, value: Any) -> bool:
        found = _RANGE.fullmatch(value)
        return found is not None and 0 < int(found[1]) <= int(found[2] or found[1])


def skipped(ranges: Sequence[str]) -> list[tuple[int, int]]:
    """The ranges of skipped steps, first and last, ascending and disjoint."""
    bounds = [(int(first), int(last or first)) for first, last in (_RANGE.fullmatch(r).groups() for r in ranges)]  # type: ignore[union-attr]
    merged: list[tuple[int, int]] = []
    for first, last in sorted(bounds):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def batch_of(ranges: Sequence[str], step: int) -> int:
    """The number, from 0, of the batch of the sample stream that step `step` (0, 1, …) takes."""
    batch = step
    for first, last in skipped(ranges):
        if batch + 1 >= first:
            batch += last - first + 1
    return batch


def stand_in(without: Sequence[int]) -> int:
    """The first example that is not left out: it takes the places of the others, with weight zero."""
    left_out = set(without)
    return next(number for number in range(len(left_out) + 1) if number not in left_out)


def refuse_unknown(without: Sequence[int], size: int) -> None:
    """Raise UserError if an id is none of the `size` training examples, or if none of them is left."""
    if without and max(without) >= size:
        raise UserError(
            f"without names the example {max(without)}, and the ids of the training data end at {size - 1}."
        )
    if len(set(without)) >= size:
        raise UserError(f"without names all {size} training examples: leave some in.")


def refuse_nothing_left(without: Sequence[int], step: int, weight: float) -> None:
    """Raise TrainingStopped if step `step` (0, 1, …) has no example left."""
    if without and weight == 0:
        raise TrainingStopped(
            f"Training stopped: step {step + 1} has no example left, because without names all of them; skip that "
            f"batch too (--skip), name fewer examples, or train with a larger batch_size."
        )


def refuse_other_past(before: Any, after: Any, order: SampleOrder, step: int) -> None:
    """Raise UserError if two runs leave out different examples of the first `step` steps, which are in the past.

    before, after: the stored run and the one that continues it.
    """
    if not step or (before.skip, before.without) == (after.skip, after.without):
        return
    last = 1 + max(batch_of(run.skip, step - 1) for run in (before, after))
    earlier, later = (
        [(first, min(end, last)) for first, end in skipped(run.skip) if first <= last] for run in (before, after)
    )
    if earlier != later:
        first = min(start for start, _ in set(earlier) ^ set(later))
        raise UserError(
            f"skip would change step {first}, and the run is at step {step} already: go back to a checkpoint before it "
            "with --at, use another --out, or pass --allow-change skip."
        )
    changed, size = set(before.without) ^ set(after.without), after.batch_size
    for past in track("Looking for the examples", range(step if changed else 0), step):
        first = batch_of(after.skip, past) * size
        if seen := sorted(changed.intersection(order.ids(first, first + size))):
            raise UserError(
                f"without changes the example {seen[0]}, which step {past + 1} has seen, and the run is at step {step} "
                f"already: go back to a checkpoint before it with --at, use another --out, or pass --allow-change "
                "without."
            )


def weights_without(weight_B: torch.Tensor, ids: Sequence[int], without: Sequence[int]) -> torch.Tensor:
    """The weights of examples, zero for those that are left out."""
    left_out = set(without)
    return torch.where(torch.tensor([number in left_out for number in ids]), torch.zeros_like(weight_B), weight_B)
