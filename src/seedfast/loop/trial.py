"""What a run leaves to measurement: its steps within a time budget, and the micro-batch that fits into memory.

They are measured in sessions that are thrown away, and stored in the run as numbers: a run that names the same numbers
has the same bits, and a continued run keeps them.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedfast.console import say
from seedfast.loop import memory
from seedfast.loop.budget import Speed, measure
from seedfast.loop.build import build
from seedfast.loop.config import AUTO, Run
from seedfast.loop.micro_batch import largest_that_fits
from seedfast.loop.placement.placement import Placement
from seedfast.loop.session import Session, stored_run
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints

Initialise = Callable[[Any], None]


def resolved(
    run: Run,
    folder: Path,
    checkpoint: Checkpoint | None,
    placement: Placement,
    initialise: Initialise | None = None,
) -> Run:
    """The run with numbers in the place of `minutes` and of an automatic `micro_batch`.

    folder: of the run, where the speed is stored. checkpoint: of the run that is continued, which has its numbers.
    """
    if run.micro_batch == AUTO:
        if checkpoint:
            stored = [stored_run(run, place).micro_batch for place in (checkpoint.folder, checkpoint.run_folder)]
            # It may have been halved at the step of the checkpoint, after that was committed.
            run = replace(run, micro_batch=min((each for each in stored if isinstance(each, int)), default=None))
        else:
            run = with_micro_batch(run, placement, initialise)
    if run.minutes is None:
        return run
    if checkpoint:
        return replace(run, minutes=None, steps=Speed.read(folder).steps(run.minutes))
    with trial(run, None, placement, initialise) as session:
        speed = measure(session, 60 * run.minutes)
    if placement.distributed.is_main:
        speed.write(folder)
    steps = speed.steps(run.minutes)
    say(
        f"{run.minutes:g} minutes are {steps} steps of {speed.step_seconds:.3g} s; --steps {steps} gives the same bits."
    )
    return replace(run, minutes=None, steps=steps)


def with_micro_batch(run: Run, placement: Placement, initialise: Initialise | None = None) -> Run:
    """The run with the largest micro-batch that fits into the memory of every process."""
    distributed = placement.distributed
    per_process = run.batch_size // distributed.world_size
    # Where each process has all weights it measures alone: one without enough memory must not leave others waiting.
    measured = placement if placement.is_sharded else Placement(replace(distributed, rank=0, world_size=1))
    with trial(replace(run, micro_batch=None), None, measured, initialise) as session:
        size = min(distributed.all_gather(largest_that_fits(session, per_process)))
    passes = math.ceil(per_process / size)
    say(f"{size} examples fit into a forward pass ({passes} for each step); --micro-batch {size} gives the same bits.")
    return replace(run, micro_batch=size)


@contextmanager
def trial(
    run: Run, checkpoint: Checkpoint | None, placement: Placement, initialise: Initialise | None = None
) -> Iterator[Session]:
    """A session in a temporary folder, in which nothing of the run is stored."""
    with tempfile.TemporaryDirectory() as folder:
        session = build(run, Checkpoints(Path(folder), keep=1), checkpoint, placement, initialise)
        if session.journal:
            session.journal.close()
        session.corpus = session.family.objective.cache_frozen_features(session.state.network, session.corpus)
        yield session
    del session
    memory.release()
