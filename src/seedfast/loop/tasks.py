"""The tasks of each training step, prepared ahead by threads where a run asks for it.

A task is a pure function of the run and the positions in the sample stream, so the order of preparation is free.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.sample_order import SampleOrder
from seedfast.families.family import Objective, Task, TaskT
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.session import Session


def positions_task(
    run: Run, objective: Objective[TaskT], dataset: Dataset, order: SampleOrder, start: int, stop: int
) -> tuple[Batch, TaskT]:
    """The examples at positions start … stop-1 of the sample stream, and their task."""
    batch = dataset.batch(order.ids(start, stop))
    draws = Draws(seed=run.seed, scope="train", positions_B=torch.arange(start, stop), group=run.batch_size)
    return batch, objective.task(batch, draws)


def step_tasks(session: Session, step: int) -> list[Task]:
    """This process's tasks of a step: one for each micro-batch of its part of the global batch."""
    run, distributed, objective = session.run, session.distributed, session.family.objective.for_step(step)
    per_rank = run.batch_size // distributed.world_size
    first = step * run.batch_size + distributed.rank * per_rank
    size = min(run.forward_examples, per_rank)
    tasks: list[Task] = []
    for start in range(first, first + per_rank, size):
        stop = min(start + size, first + per_rank)
        tasks.append(positions_task(run, objective, session.corpus.train, session.order, start, stop)[1])
    return tasks


def prefetched_tasks(session: Session, start: int, stop: int) -> Generator[tuple[int, list[Task]], Any, None]:
    """The tasks of each step in turn; with `workers`, threads prepare those of later steps meanwhile."""
    workers = session.run.workers
    if not workers:
        yield from ((step, step_tasks(session, step)) for step in range(start, stop))
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        ahead = {step: pool.submit(step_tasks, session, step) for step in range(start, min(start + workers, stop))}
        try:
            for step in range(start, stop):
                tasks = ahead.pop(step).result()
                if step + workers < stop:
                    ahead[step + workers] = pool.submit(step_tasks, session, step + workers)
                yield step, tasks
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
