"""What training costs: throughput, share of the peak, memory, and time spent waiting for data.

Times are those of training alone: validations, samples and checkpoints are no part of a step's time. The seconds that
the training stands still for a checkpoint are the `saving` of the step after it. The share of the
peak is the model FLOPs utilisation (MFU) of "PaLM" (Chowdhery et al. 2022, appendix B):

    MFU = model FLOPs of a step (`flops.py`) / (its seconds · peak of the device (`peak.py`) · devices)
"""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from seedfast.families.family import Task
from seedfast.loop.flops import model_flops
from seedfast.loop.peak import peak_flops
from seedfast.loop.plan import is_due
from seedfast.loop.session import Session
from seedfast.run_folder.journal import StepEntry

T = TypeVar("T")


class Costs:
    """Measures the steps of a session. waited: seconds that the newest tasks were waited for."""

    def __init__(self, session: Session) -> None:
        self._session, self.waited = session, 0.0
        given, place = session.run.peak_tflops, session.distributed
        self._peak = peak_flops(place, session.state.network) if given is None else given * 1e12
        self._flops: float | None = None  # of this process's part of a step; 0 where it cannot be counted
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place.device)

    def waiting(self, steps: Iterable[T]) -> Iterator[T]:
        """The same steps; the time until each arrives is what it is waited for."""
        arriving = iter(steps)
        while True:
            began = time.perf_counter()
            step = next(arriving, None)
            self.waited = time.perf_counter() - began
            if step is None:
                return
            yield step

    def count(self, step: int, tasks: list[Task]) -> None:
        """Count the FLOPs of this process's part of a step, once: later steps are taken to be of about that size.

        After a step has been launched, so that what a network checks at its first batch has been checked.
        """
        if self._peak is None or self._flops is not None:
            return
        session, meta, task = self._session, torch.device("meta"), tasks[0]
        state = {name: tensor.to(meta) for name, tensor in session.state.family.items()}
        objective = session.family.objective.for_step(step)
        flops = model_flops(session.uncut, lambda network: objective.loss(network, task.to(meta), state))
        self._flops = (flops or 0) * sum(len(each.weight_B) for each in tasks) / len(task.weight_B)
        if self._flops:
            processes = session.distributed.world_size
            session.note("counted", flops_per_step=round(self._flops * processes), peak_flops=self._peak * processes)

    def of_step(self, entry: StepEntry, seconds: float, waited: float, saving: float) -> dict[str, float]:
        """The `time` of a step's line in the journal. saving: seconds that the training stood still before it."""
        session = self._session
        unit = session.family.objective.measure.weight_unit
        found = {
            "seconds": round(seconds, 6),
            "waiting": round(waited, 6),
            f"{unit}_per_second": float(f"{entry['weight'] / seconds:.6g}"),
        }
        if saving:
            found["saving"] = round(saving, 6)
        if self._flops and self._peak:
            found["mfu"] = float(f"{self._flops / (seconds * self._peak):.4g}")
        if is_due(entry["step"], session.run.log_every) or entry["step"] == session.plan.steps:
            found["memory"] = peak_memory(session.distributed.device)  # not free on a GPU
        return found


def peak_memory(device: torch.device) -> int:
    """The most bytes so far: of tensors on a CUDA device, or else of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Tally:
    """The costs of several steps: sums of their weights and seconds, and the newest peak of the memory."""

    weight: float = 0.0
    seconds: float = 0.0
    waiting: float = 0.0
    saving: float = 0.0
    """Seconds that the training stood still to save, which are no part of `seconds`."""
    used: float = 0.0
    """Seconds that the steps would have taken at the peak; 0 where it is not known."""
    memory: float = 0.0

    def add(self, entry: StepEntry) -> None:
        """Add a step's line of the journal."""
        cost: Mapping[str, Any] = entry["time"]
        self.weight += entry["weight"]
        self.seconds += cost["seconds"]
        self.waiting += cost["waiting"]
        self.saving += cost.get("saving", 0.0)
        self.used += cost["seconds"] * cost.get("mfu", 0.0)
        self.memory = cost.get("memory", self.memory)

    def fade(self, factor: float) -> None:
        """Let the steps so far count less than those to come."""
        self.weight, self.seconds = factor * self.weight, factor * self.seconds
        self.waiting, self.used = factor * self.waiting, factor * self.used

    @property
    def rate(self) -> float:
        """Weight per second."""
        return self.weight / self.seconds

    @property
    def waiting_share(self) -> float:
        """The share of the time that was spent waiting for data."""
        return self.waiting / self.seconds

    @property
    def mfu(self) -> float:
        """The share of the peak; 0 where it is not known."""
        return self.used / self.seconds
