"""The examples of one forward pass: the most that fit into memory, and fewer where they do not fit after all.

Another size changes only the order of additions. It is stored in the run before any number depends on it.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from seedfast import files
from seedfast.console import warn
from seedfast.errors import TrainingStopped, UserError
from seedfast.families.family import Task
from seedfast.loop import memory
from seedfast.loop.memory import OutOfMemory
from seedfast.loop.session import Session
from seedfast.loop.step import Update, launch
from seedfast.loop.tasks import positions_task, step_tasks
from seedfast.loop.validate import chosen_examples, validate_session

_USABLE = 0.9
"""The part of the memory that is used: other steps and other programs need more than was measured."""


def largest_that_fits(session: Session, most: int) -> int:
    """The largest micro-batch, of `most` examples or an even part of them, of a session that is thrown away.

    It takes steps of growing micro-batches until one does not fit, or would not by how the memory has grown so far:
    where the operating system promises more memory than it has, no error would come before the end of the process.
    Processes that share the weights measure together: what does not fit into one of them does not fit.
    Raises UserError if not even one example fits, or if one of these processes runs out of memory in the middle of a
    step, in which the others wait for it.
    """
    distributed = session.distributed
    device = distributed.device
    limit = memory.limit(device)
    usable = math.inf if limit is None else _USABLE * limit
    peaks: dict[int, int] = {}

    def fits(size: int) -> bool:
        if not all(distributed.all_gather(predicted(peaks, size) <= usable)):
            return False
        try:
            with memory.noticed():
                peaks[size] = memory.peak(device, lambda: _work(session, size, rest=most - size))
        except OutOfMemory as error:
            if distributed.world_size > 1:
                raise _too_early(size, error) from None
            memory.release()
            return False
        return all(distributed.all_gather(peaks[size] <= usable))

    size = search(even_parts(most), fits)
    if not size:
        total = "the memory" if limit is None else f"{limit / 1e9:.2f} GB"
        raise UserError(
            f"Not even one example fits into {total} with this network: make it smaller (--size, --data.context), or "
            "give it more memory."
        )
    return size


def _too_early(size: int, error: OutOfMemory) -> UserError:
    return UserError(
        f"{size} examples in a forward pass need more memory than there is ({error}), which was not foreseen from "
        "smaller ones: pass a number as --micro-batch, or make the network smaller (--size, --data.context)."
    )


def even_parts(most: int) -> list[int]:
    """The sizes of micro-batches that divide a number of examples evenly, up to one, ascending."""
    return sorted({-(-most // passes) for passes in range(1, most + 1)})


def search(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The largest of some ascending sizes that fits, 0 if none does; none is tried that is far larger than it."""
    low, high = -1, len(sizes)  # sizes[low] fits, sizes[high] does not
    while low + 1 < high:
        if high == len(sizes) and low >= 0:  # at most twice the size before
            place = max(low + 1, bisect_right(sizes, 2 * sizes[low]) - 1)
        else:
            place = max(0, (low + high) // 2) if high < len(sizes) else 0
        low, high = (place, high) if fits(sizes[place]) else (low, place)
    return sizes[low] if low >= 0 else 0


def predicted(peaks: dict[int, int], size: int) -> float:
    """The peak of a larger size, on the line through the two largest that were measured."""
    if len(peaks) < 2:
        return 0.0
    (small, below), (large, above) = sorted(peaks.items())[-2:]
    return above + max(0.0, (above - below) / (large - small)) * (size - large)


def _work(session: Session, size: int, *, rest: int) -> None:
    """A step of two micro-batches (one, if no examples are left for another), and a batch of a validation."""
    run, objective = session.run, session.family.objective
    starts = (0, size) if rest else (0,)
    order, train = session.order, session.corpus.train
    tasks: list[Task] = [
        positions_task(run, objective.for_step(0), train, order, start, start + size)[1] for start in starts
    ]
    launch(session, 0, tasks, sum(float(task.weight_B.sum()) for task in tasks)).entry(session)
    if chosen := chosen_examples(session.corpus, run.eval_examples, run.seed):
        validate_session(session, session.state.network, chosen[: 4 * size], batch_size=4 * size)


def launch_within_memory(
    session: Session, step: int, tasks: list[Task], weight: float, commit: Callable[[], None]
) -> Update:
    """`launch`; where a run adapts its micro-batch, with half of it from here on each time that it does not fit.

    commit: saves the run as it is before this step, with the new size. Raises TrainingStopped if it cannot be halved.
    """
    while True:
        if session.adapts_micro_batch and max(len(task.weight_B) for task in tasks) > session.run.forward_examples:
            tasks = step_tasks(session, step)  # these were prepared before the size was halved
        try:
            return launch(session, step, tasks, weight)
        except OutOfMemory as error:
            reason = str(error)
        size = max(len(task.weight_B) for task in tasks)
        if not session.adapts_micro_batch or size == 1 or session.distributed.world_size > 1:
            raise _too_large(step, size, reason)
        _halve(session, step, size)
        commit()
        with suppress(OSError):  # a full disk is reported where the checkpoint cannot be saved
            files.commit(session.folder / "run.yaml", session.run_yaml)


def _halve(session: Session, step: int, size: int) -> None:
    session.state.optimizer.zero_grad()
    memory.release()
    session.run = replace(session.run, micro_batch=size // 2)
    sentence = f"{size} examples do not fit into a forward pass at step {step + 1}: from here on, it has {size // 2}"
    warn(sentence)
    session.note("micro-batch", reason=sentence)


def _too_large(step: int, size: int, reason: str) -> TrainingStopped:
    remedy = "a smaller network" if size == 1 else f"--micro-batch {size // 2}"
    return TrainingStopped(
        f"Training stopped: {size} examples in a forward pass need more memory than there is at step {step + 1} "
        f"({reason}). The checkpoints before it are intact; run the same command again with {remedy}."
    )
