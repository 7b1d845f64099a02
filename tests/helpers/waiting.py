"""Whether the host waits for a GPU, a real one or a pretended one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.step import launch
from seedfast.loop.tasks import prefetched_tasks
from seedfast.loop.train import agree


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within this context, what makes the host wait raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_that_no_step_waits(run: Run, folder: Path, *, steps: int, first: int) -> None:
    """Launch steps; assert that none waits from the number `first` on. Earlier ones compile, and allocate state."""
    with open_session(run, folder) as opened:
        for step, prepared in prefetched_tasks(opened, 0, steps):
            with no_waiting() if step >= first else nullcontext():
                weight, _, _ = agree(opened, prepared.weight, None, False)
                prepared.wait()
                launched = launch(opened, step, prepared.tasks, weight)
        assert launched.entry(opened)["loss"] is not None
