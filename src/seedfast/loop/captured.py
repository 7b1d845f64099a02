"""A training step as a CUDA graph: the device repeats the kernels of one step, and the host launches one thing.

A small network has a thousand short kernels in a step, and most of the time goes into launching them.
"""

from collections.abc import Callable, Hashable
from dataclasses import fields
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from seedfast.families.family import Task

ResultT = TypeVar("ResultT")
Compute = Callable[[list[Task]], ResultT]
"""The work of the device in a step: from its tasks to tensors (inside any value)."""

_WARM = 3
"""Steps before the capture, in which libraries allocate their workspaces and optimizers their state."""


class CapturedStep:
    """Does the work of a step; from the fourth one on as the graph that is captured then.

    The graph has the same kernels on the same numbers, so it changes no bit. What differs between steps is read from
    memory that the host overwrites: the tasks here, and the numbers of `DeviceNumbers`. A step whose tasks have other
    shapes is done without the graph.
    """

    def __init__(self) -> None:
        self._done = 0
        self._tasks: list[Task] = []
        self._result: object = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, compute: Compute[ResultT], tasks: list[Task]) -> ResultT:
        """The result of `compute`; that of a replay is overwritten by the next one."""
        if self._replay is None and self._done == _WARM:
            self._tasks = [task.map(torch.clone) for task in tasks]
            self._result, self._replay = self.capture(compute, self._tasks)
        self._done += 1
        if self._replay is None or shapes(tasks) != shapes(self._tasks):
            return self.without_graph(compute, tasks)
        stored, new = ([tensor for task in each for tensor in task.tensors()] for each in (self._tasks, tasks))
        torch._foreach_copy_(stored, new)
        self._replay()
        return self._result  # type: ignore[return-value]  # of the compute function that was captured

    def capture(self, compute: Compute[ResultT], tasks: list[Task]) -> tuple[ResultT, Callable[[], None]]:
        """Record the kernels of a step without running them: the tensors of the result, and what runs the kernels."""
        graph = torch.cuda.CUDAGraph()
        # Threads that prepare later tasks may allocate and copy meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = compute(tasks)
        return result, graph.replay

    def without_graph(self, compute: Compute[ResultT], tasks: list[Task]) -> ResultT:
        """The work on a stream of its own: a capture fails if its kernels depend on work of the current stream."""
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            result = compute(tasks)
        torch.cuda.current_stream().wait_stream(self._aside)
        return result

    @cached_property
    def _aside(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def is_capturing(device: torch.device) -> bool:
    """Whether the kernels that are launched now are recorded instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def shapes(tasks: list[Task]) -> Hashable:
    """What two steps must have in common to be the same kernels: types, absent fields, shapes, and plain values."""
    return tuple(_shape(task) for task in tasks)


def _shape(value: object) -> Hashable:
    if isinstance(value, Task):
        return (type(value), *(_shape(getattr(value, f.name)) for f in fields(value)))
    return (value.dtype, value.shape) if isinstance(value, Tensor) else value
