"""The tasks of each training step, prepared ahead by threads, and copied to a GPU while it does the step before.

A task is a pure function of the run and the positions in the sample stream, so the order of preparation is free.
"""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.sample_order import SampleOrder
from seedfast.families.family import Objective, Task, TaskT
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.left_out import stand_in, weights_without
from seedfast.loop.session import Session

_THREADS_FOR_A_GPU = 4


@dataclass(frozen=True)
class StepTasks:
    """This process's tasks of a step, and the sum of their weights.

    arrives: when the tasks are on the device, if they are copied there meanwhile.
    """

    tasks: list[Task]
    weight: float | Fraction
    arrives: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Let the device wait for its tasks before what it is given next. The host does not wait."""
        if self.arrives is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.arrives)
        for task in self.tasks:
            for tensor in task.tensors():
                tensor.record_stream(stream)  # or the memory would be free when the host has finished with it


def positions_task(
    run: Run, objective: Objective[TaskT], dataset: Dataset, order: SampleOrder, start: int, stop: int
) -> tuple[Batch, TaskT]:
    """The examples at positions start … stop-1 of the sample stream, and their task.

    Those that the run is to do without have weight zero, and another example stands in for them.
    """
    ids = order.ids(start, stop)
    left_out = set(run.without).intersection(ids)
    batch = dataset.batch([stand_in(run.without) if number in left_out else number for number in ids])
    draws = Draws(seed=run.seed, scope="train", positions_B=torch.arange(start, stop), group=run.batch_size)
    task = objective.task(batch, draws)
    return batch, replace(task, weight_B=weights_without(task.weight_B, ids, run.without)) if left_out else task


def step_tasks(session: Session, step: int) -> list[Task]:
    """This process's tasks of a step: one for each micro-batch of its part of the global batch."""
    tasks = (task for _, task in step_batches(session, step))
    return [task if session.compiled == "off" else task.with_fixed_shapes() for task in tasks]


def step_batches(session: Session, step: int) -> Iterator[tuple[Batch, Task]]:
    """This process's micro-batches of a step, each with its task."""
    run, distributed, objective = session.run, session.distributed, session.family.objective.for_step(step)
    per_rank = run.batch_size // distributed.world_size
    first = session.positions(step).start + distributed.rank * per_rank
    size = min(run.forward_examples, per_rank)
    for start in range(first, first + per_rank, size):
        stop = min(start + size, first + per_rank)
        yield positions_task(run, objective, session.corpus.train, session.order, start, stop)


def prefetched_tasks(session: Session, start: int, stop: int) -> Generator[tuple[int, StepTasks], Any, None]:
    """The tasks of each step in turn; with `workers`, threads prepare those of later steps meanwhile."""
    device = session.distributed.device
    aside = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def prepared(step: int) -> StepTasks:
        tasks = step_tasks(session, step)
        weight = session.summation.weight(tasks)
        return StepTasks(tasks, weight) if aside is None else _copied(tasks, weight, device, aside)

    if not (workers := threads(session)):
        yield from ((step, prepared(step)) for step in range(start, stop))
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        ahead = {step: pool.submit(prepared, step) for step in range(start, min(start + workers, stop))}
        try:
            for step in range(start, stop):
                tasks = ahead.pop(step).result()
                if step + workers < stop:
                    ahead[step + workers] = pool.submit(prepared, step + workers)
                yield step, tasks
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def threads(session: Session) -> int:
    """The threads that prepare tasks: none on a CPU by default, where they would take the time of the step."""
    if session.run.workers is not None:
        return session.run.workers
    return _THREADS_FOR_A_GPU if session.distributed.device.type == "cuda" else 0


def _copied(tasks: list[Task], weight: float | Fraction, device: torch.device, stream: torch.cuda.Stream) -> StepTasks:
    """The tasks on a GPU, copied from pinned memory on a stream of their own: beside the kernels, and nobody waits."""
    with torch.cuda.device(device), torch.cuda.stream(stream):
        moved = [task.map(torch.Tensor.pin_memory).to(device) for task in tasks]
        arrives = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrives.record()
    return StepTasks(moved, weight, arrives)
