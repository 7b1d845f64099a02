"""What a run will need, before its first step: memory, time and disk, measured by a few steps that are thrown away."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from seedfast.loop import memory
from seedfast.loop.budget import Speed, measure
from seedfast.loop.config import Run
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.placement.placement import Placement
from seedfast.loop.session import Session
from seedfast.loop.step import launch
from seedfast.loop.tasks import step_tasks
from seedfast.loop.trial import resolved, trial
from seedfast.report.format import duration, size
from seedfast.run_folder.checkpoints import Checkpoints

_MEASURED = 250.0  # seconds of a budget by which the time of a step is measured in five


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The needs of a run. Sizes are in bytes.

    parameters, trained: of the network. activations: kept of a micro-batch for its backward pass, in all layers
    together. peak: the most that the process used in a step; copy: of the state in the host's memory, for a checkpoint
    that is written beside the training; limit: the most that it may use, None if not known.
    steps: that are left. speed: of a step, a validation, a set of samples. checkpoint: one; checkpoints: retained at
    once at most, with the one that is being written. shared: the frozen weights, stored once. journal: of all steps.
    free: on the disk of the run folder.
    """

    parameters: int
    trained: int
    weights: int
    average: int
    gradients: int
    optimizer: int
    activations: int
    micro_batch: int
    peak: int
    copy: int
    limit: int | None
    steps: int
    speed: Speed
    checkpoint: int
    checkpoints: int
    shared: int
    journal: int
    free: int

    @property
    def seconds(self) -> float:
        """The time of the steps, validations and samples that are left; saving comes on top."""
        each = self.speed
        validations = 1 + (self.steps - 1) // each.eval_every if each.eval_every else 1
        samples = 1 + (self.steps - 1) // each.sample_every if each.sample_every else 1
        validating, sampling = validations * each.validation_seconds, samples * each.sampling_seconds
        return self.steps * each.step_seconds + validating + sampling

    @property
    def disk(self) -> int:
        """The most that the run folder holds at once."""
        return self.checkpoints * self.checkpoint + self.shared + self.journal

    def lines(self) -> Iterator[str]:
        """For people."""
        share = "" if self.trained == self.parameters else f", {self.trained / 1e6:.2f} M of them trained"
        yield f"parameters   {self.parameters / 1e6:.2f} M{share}"
        parts = {
            "weights": self.weights,
            "average": self.average,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            f"activations of {self.micro_batch} examples": self.activations,
        }
        for name, bytes_ in parts.items():
            yield f"memory       {size(bytes_):>10}  {name}" if bytes_ else f"memory       {'none':>10}  {name}"
        most = "" if self.limit is None else f", of {size(self.limit)} that it may use"
        yield f"memory       {size(self.peak):>10}  at most, measured in a step (all of the process){most}"
        if self.copy:
            yield f"memory       {size(self.copy):>10}  of the host, for the copy of a checkpoint (--async-save)"
        each = self.speed
        parts_of_time = [
            f"{self.steps:,} steps of {each.step_seconds:.3g} s",
            f"validations of {each.validation_seconds:.3g} s",
            f"samples of {each.sampling_seconds:.3g} s",
        ]
        yield f"time         {duration(self.seconds):>10}  {', '.join(parts_of_time)}; without saving"
        yield f"disk         {size(self.disk):>10}  {self.checkpoints} checkpoints of {size(self.checkpoint)} at once"
        if self.limit is not None and self.peak > self.limit:
            yield "NOT ENOUGH MEMORY: take a smaller --micro-batch (auto finds one), or a smaller network"
        if self.disk > self.free:
            yield f"NOT ENOUGH DISK: {size(self.free)} are free; lower --keep, or choose another --out"


def estimate(run: Run, folder: Path) -> Estimate:
    """Measure a new run, or the rest of the one in a folder, without touching the folder.

    Raises UserError as a training would.
    """
    distributed = DistributedContext.single(run.device, run.precision)
    placement = Placement(distributed)  # of one process, whatever the run's is
    checkpoint = Checkpoints(folder, keep=run.keep).newest() if (folder / "run.yaml").is_file() else None
    run = run if checkpoint else replace(run, data=run.data.started())
    minutes, run = run.minutes, resolved(replace(run, minutes=None), folder, checkpoint, placement)
    with trial(run, checkpoint, placement) as session:
        activations = _activations(session)
        peak = memory.peak(distributed.device, lambda: _step(session))
        speed = measure(session, _MEASURED)
        state, done = session.state, checkpoint.step if checkpoint else 0
        steps = session.plan.steps if minutes is None else speed.steps(minutes)
        tensors = state.tensors()
        sizes = {group: sum(map(_bytes, found.values())) for group, found in tensors.items()}
        parameters = list(state.network.parameters())
        return Estimate(
            parameters=sum(each.numel() for each in parameters),
            trained=sum(each.numel() for each in parameters if each.requires_grad),
            weights=sum(map(_bytes, parameters)),
            average=sum(map(_bytes, state.average.network.parameters())) if state.average else 0,
            # An exact sum is two numbers in float64 beside each gradient.
            gradients=(5 if run.exact_sums else 1) * sum(_bytes(each) for each in parameters if each.requires_grad),
            optimizer=sizes.get("optimizer", 0),
            activations=activations,
            micro_batch=min(run.forward_examples, run.batch_size),
            peak=peak,
            copy=sum(sizes.values()) if run.async_save else 0,
            limit=memory.limit(distributed.device),
            steps=max(0, steps - done),
            speed=speed,
            checkpoint=sum(sizes.values()),
            checkpoints=run.keep + (2 if state.average else 1) + 1,
            shared=sum(map(_bytes, state.frozen().values())),
            journal=steps * len(json.dumps(_step(session))),
            free=shutil.disk_usage(next(each for each in (folder, *folder.absolute().parents) if each.exists())).free,
        )


def _step(session: Session) -> object:
    """Take a step; returns its line of the journal."""
    tasks = step_tasks(session, 0)
    weight = sum(float(task.weight_B.sum()) for task in tasks)
    return {**launch(session, 0, tasks, weight).entry(session), "time": {"seconds": 0.123456}}


def _activations(session: Session) -> int:
    """The bytes that the forward pass of a micro-batch keeps for its backward pass, without the weights."""
    weights = {each.untyped_storage().data_ptr() for each in session.state.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    task = step_tasks(session, 0)[0].to(session.distributed.device)
    objective = session.family.objective.for_step(0)
    session.network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), session.distributed.autocast():
        terms = objective.loss(session.network, task, session.state.family)
    found = sum(kept.values())
    del terms
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.nbytes
