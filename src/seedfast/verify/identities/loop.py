"""Identities of the loop, as far as one process without a run folder shows them: sums, keys and averages.

`seedfast verify resume` and the tests show them for whole runs, with kills and with several processes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.families.family import Objective, Task
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.families.text.embedding import Embedding
from seedfast.families.text.masked import Masked, MaskedObjective, MaskedTask
from seedfast.keys import Draws
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.validate import Score, validate
from seedfast.models.transformer import Transformer
from seedfast.optim.ema import EMA, Average
from seedfast.verify.identities.check import Check, relative_error
from seedfast.verify.identities.toys import IndependentWindows, arbitrary_history, arbitrary_table, assets, numbers

_VOCABULARY, _LENGTH = 3, 4
_SPLITS: tuple[tuple[int, ...], ...] = ((6, 6), (1, 5, 4, 2), (1,) * 12)


Objectives = list[tuple[Objective[Any], nn.Module]]


def default_objectives() -> Objectives:
    """The objective of every text family in training, with a network whose gradient is different everywhere."""
    home = assets(_VOCABULARY, _LENGTH)
    table = arbitrary_table(_VOCABULARY, _LENGTH)
    embedding = Embedding(channels=4).build(home).objective
    return [
        (Masked().build(home).objective, table),
        (Masked(estimator="continuous", schedule="cosine").build(home).objective, table),
        (Autoregressive().build(home).objective, arbitrary_history(_VOCABULARY, _LENGTH)),
        (embedding.for_step(0), _without_zeros(embedding.network(Transformer(layers=1, heads=1, width=8)))),
    ]


@torch.no_grad()
def _without_zeros(network: nn.Module) -> nn.Module:
    """The network with fixed weights everywhere: those that start at zero would hide the gradients of others."""
    for name, parameter in network.named_parameters():
        if name != "schedule.ends":
            parameter.copy_(numbers(name, *parameter.shape) / 2)
    return network.double()  # large weights magnify rounding, which this identity is not about


def _batch(count: int = 12) -> Batch:
    """Windows with different numbers of scored tokens."""
    tokens_BL = (numbers("batch", count, _LENGTH + 1).abs() * 10).long() % _VOCABULARY
    unscored_B = torch.arange(count) % _LENGTH
    return {"tokens": tokens_BL, "scored": torch.arange(_LENGTH) >= unscored_B[:, None]}


def _tasks(objective: Objective[Any], sizes: Sequence[int]) -> list[Task]:
    batch, stops, tasks = _batch(sum(sizes)), 0, []
    for size in sizes:
        rows = slice(stops, stops + size)
        draws = Draws(seed=0, scope="train", positions_B=torch.arange(rows.start, rows.stop), group=sum(sizes))
        tasks.append(objective.task({name: part[rows] for name, part in batch.items()}, draws))
        stops += size
    return tasks


def split_invariance(objectives: Callable[[], Objectives] = default_objectives) -> Check:
    """The task of an example does not depend on the micro-batch or the process that holds it, to the last bit.

    Fields whose first dimension is not the batch (positions, `…_N`, are indices into it) follow from those whose is.
    """
    different = []
    for objective, _ in objectives():
        (whole,) = _tasks(objective, (12,))
        for sizes in _SPLITS:
            parts = _tasks(objective, sizes)
            for name in (f.name for f in fields(whole) if "_B" in f.name):
                values = [getattr(part, name) for part in parts]
                if isinstance(values[0], Tensor) and not torch.equal(torch.cat(values), getattr(whole, name)):
                    different.append(f"{type(objective).__name__}.{name} in {len(sizes)} parts")
    detail = f"NOT for {', '.join(different)}" if different else "the same tasks in 1, 2, 4 and 12 parts, bit for bit"
    return Check("processes", "noise belongs to the example", not different, detail)


def global_weight(tasks: Sequence[Task], index: int) -> float:
    """The divisor of micro-batch `index` in the loop: the weight of the whole global batch."""
    return sum(float(task.weight_B.sum()) for task in tasks)


def accumulation(
    objectives: Callable[[], Objectives] = default_objectives,
    divisor: Callable[[Sequence[Task], int], float] = global_weight,
) -> Check:
    """The gradient of a batch is the sum of its micro-batches', although their token counts differ."""
    error = 0.0
    for objective, network in objectives():
        whole = _gradient(objective, network, (12,), divisor)
        for sizes in _SPLITS:
            difference = _gradient(objective, network, sizes, divisor) - whole
            error = max(error, float(difference.norm() / whole.norm()))
    return Check("micro-batches", "micro-batches add up", error < 1e-6, f"relative difference of gradients {error:.0e}")


def _gradient(
    objective: Objective[Any], network: nn.Module, sizes: Sequence[int], divisor: Callable[[Sequence[Task], int], float]
) -> Tensor:
    tasks = _tasks(objective, sizes)
    losses = [objective.loss(network, task, {}).total_B.sum() / divisor(tasks, i) for i, task in enumerate(tasks)]
    slopes = torch.autograd.grad(torch.stack(losses).sum(), list(network.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


class _TrainingKeys(MaskedObjective):
    """Masked diffusion whose validation uses the keys of a training step: its positions are the batch's rows."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, scope="train", group=self.evaluation_group))

    evaluation_group = 1


@torch.no_grad()
def validation_is_training_loss(validation: Callable[..., Score] = validate) -> Check:
    """Validation on a training batch with the training key is the training loss, in whatever batches it is scored.

    The windows differ in their number of scored tokens, so a mean of means would not be.
    """
    stream = (numbers("stream", 46).abs() * 10).long() % _VOCABULARY
    split = IndependentWindows(stream.numpy().astype(np.uint16), _LENGTH)
    objective, network = _TrainingKeys(Masked(), assets(_VOCABULARY, _LENGTH)), arbitrary_table(_VOCABULARY, _LENGTH)
    objective.evaluation_group = len(split)
    ids = list(range(len(split)))
    draws = Draws(seed=0, scope="train", positions_B=torch.arange(len(split)), group=len(split))
    task = MaskedObjective.task(objective, split.batch(ids), draws)
    trained = float(objective.loss(network, task, {}).total_B.sum(dtype=torch.float64)) / float(task.weight_B.sum())
    place = DistributedContext(torch.device("cpu"))
    # Of a ratio of sums over windows (Cochran 1977, "Sampling Techniques", section 6.4).
    residual_B = objective.loss(network, task, {}).total_B.double() - trained * task.weight_B
    error = math.sqrt(len(ids) * float(residual_B.var())) / float(task.weight_B.sum())
    scores = [
        validation(objective, network, {}, split, ids, seed=0, batch_size=size, draws=1, distributed=place)
        for size in (1, 5, len(split))
    ]
    difference = max(
        max(relative_error(each.loss, trained), relative_error(each.standard_error, error)) for each in scores
    )
    detail = (
        f"{trained:.6f} ± {error:.6f} nats per token in batches of 1, 5 and {len(split)} (difference {difference:.0e})"
    )
    return Check("train-is-validation", "validation = training loss", difference < 1e-7, detail)


def moving_average(average: Callable[[nn.Module], Average] = Average, config: Callable[..., EMA] = EMA) -> Check:
    """From 0, with decay d and weights 1, 2, …, n, the average is n - d(1-dⁿ)/(1-d).

    And h updates with half-life h keep one half of the old average; integer buffers are copied, not averaged.
    """
    n, d = 50, 0.9
    network = nn.BatchNorm1d(1, dtype=torch.float64)  # it has parameters, and buffers of which one counts in integers
    nn.init.zeros_(network.weight)
    own = average(network)
    for i in range(1, n + 1):
        nn.init.constant_(network.weight, i)
        network.num_batches_tracked.fill_(i)  # type: ignore[union-attr]
        own.update(d, torch.tensor(True))
    difference = relative_error(own.network.weight, n - d * (1 - d**n) / (1 - d))  # type: ignore[arg-type]
    counter = int(own.network.num_batches_tracked)  # type: ignore[arg-type]
    kept = 1.0
    for step in range(1000, 1020):
        kept *= config(half_life=20).decay(step, 8)
    samples = config(half_life=160, unit="samples").decay(1000, 8)
    half = max(relative_error(kept, 0.5), relative_error(samples**20, 0.5))
    holds = difference < 1e-12 and counter == n and half < 1e-12
    detail = f"differs from n - d(1-dⁿ)/(1-d) by {difference:.0e}, from one half after a half-life by {half:.0e}"
    return Check("ema", "moving average", holds, detail)
