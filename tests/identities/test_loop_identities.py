"""Identities of the loop without a run folder: sums over splits, keyed noise, validation and the moving average.

Each has twins that are broken on purpose and must fail.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from seedfast.data.dataset import Batch
from seedfast.families.family import Task, Terms
from seedfast.families.generator import State
from seedfast.families.text.masked import Masked, MaskedObjective, MaskedTask
from seedfast.keys import Draws
from seedfast.loop.validate import Score, validate
from seedfast.optim.ema import EMA, Average
from seedfast.verify.identities import loop
from seedfast.verify.identities.toys import arbitrary_table, assets


def only(objective: type[MaskedObjective]) -> loop.Objectives:
    """The objective, with a network of arbitrary logits."""
    return [(objective(Masked(), assets(3, 4)), arbitrary_table(3, 4))]


class UnkeyedMasks(MaskedObjective):
    """The masks come from torch's global generator."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, seed=int(torch.randint(1 << 30, ()))))


class StratifiesTheMicroBatch(MaskedObjective):
    """The times are stratified over the micro-batch instead of the global batch."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, group=len(draws.positions_B)))


class KeyedByRow(MaskedObjective):
    """The noise is keyed by the row in the micro-batch instead of the position in the sample stream."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, positions_B=torch.arange(len(draws.positions_B))))


class MeanWeights(MaskedObjective):
    """The weight of an example depends on the others of its micro-batch."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return replace(task, weight_B=task.weight_B.double().mean().expand_as(task.weight_B))


@pytest.mark.parametrize("twin", [UnkeyedMasks, StratifiesTheMicroBatch, KeyedByRow, MeanWeights])
def test_twins_whose_tasks_depend_on_the_split_fail(twin: type[MaskedObjective]) -> None:
    assert not loop.split_invariance(lambda: only(twin)).holds


class RelativeLoss(MaskedObjective):
    """The loss of an example depends on the others of its micro-batch."""

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        terms = super().loss(network, task, state)
        return replace(terms, total_B=terms.total_B / task.weight_B.double().mean())


def _mean_of_means(tasks: Sequence[Task], index: int) -> float:
    return len(tasks) * float(tasks[index].weight_B.sum())


def _examples(tasks: Sequence[Task], index: int) -> float:
    return float(len(tasks[index].weight_B))


@pytest.mark.parametrize("divisor", [_mean_of_means, _examples])
def test_twins_that_do_not_divide_by_the_global_weight_fail(divisor: Any) -> None:
    assert not loop.accumulation(divisor=divisor).holds


@pytest.mark.parametrize("twin", [RelativeLoss, StratifiesTheMicroBatch, KeyedByRow])
def test_twins_of_the_objective_fail(twin: type[MaskedObjective]) -> None:
    assert not loop.accumulation(lambda: only(twin)).holds


def _other_key(*arguments: Any, seed: int, **options: Any) -> Score:
    return validate(*arguments, seed=seed + 1, **options)


def _per_batch(objective: Any, network: Any, state: Any, dataset: Any, examples: Any, **options: Any) -> Score:
    """The mean of the losses of the batches."""
    size = options["batch_size"]
    parts = [examples[start : start + size] for start in range(0, len(examples), size)]
    scores = [validate(objective, network, state, dataset, part, **options) for part in parts]
    return replace(scores[0], loss=sum(score.loss for score in scores) / len(scores))


def _leaves_out(objective: Any, network: Any, state: Any, dataset: Any, examples: Any, **options: Any) -> Score:
    """The last, incomplete batch is left out."""
    full = len(examples) // options["batch_size"] * options["batch_size"]
    return validate(objective, network, state, dataset, examples[:full], **options)


def _overconfident(*arguments: Any, **options: Any) -> Score:
    """The standard error lacks Bessel's correction."""
    score = validate(*arguments, **options)
    return replace(score, standard_error=score.standard_error * ((score.examples - 1) / score.examples) ** 0.5)


@pytest.mark.parametrize("twin", [_other_key, _per_batch, _leaves_out, _overconfident])
def test_twins_that_validate_something_else_fail(twin: Any) -> None:
    assert not loop.validation_is_training_loss(twin).holds


class Late(Average):
    """Each update uses the weights of the update before."""

    def __init__(self, network: nn.Module) -> None:
        self._source, self._behind = network, copy.deepcopy(network)
        super().__init__(self._behind)

    def update(self, decay: float, finite: torch.Tensor) -> None:
        super().update(decay, finite)
        self._behind.load_state_dict(self._source.state_dict())


class Swapped(Average):
    """The two factors of an update are exchanged."""

    def update(self, decay: float, finite: torch.Tensor) -> None:
        super().update(1 - decay, finite)


class CopiesNoBuffers(Average):
    """Buffers, such as counters, are not copied."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._buffers = []


class Debiased(Average):
    """The average is divided by 1 - dⁿ, as Adam's moments are, although it starts from the weights."""

    _n = 0

    def update(self, decay: float, finite: torch.Tensor) -> None:
        for own in self.network.parameters():
            own.mul_(1 - decay**self._n)
        super().update(decay, finite)
        self._n += 1
        for own in self.network.parameters():
            own.div_(1 - decay**self._n)


@pytest.mark.parametrize("twin", [Late, Swapped, CopiesNoBuffers, Debiased])
def test_twins_that_average_something_else_fail(twin: type[Average]) -> None:
    assert not loop.moving_average(twin).holds


def test_twin_whose_half_life_is_a_time_constant_fails() -> None:
    class TimeConstant(EMA):
        def decay(self, step: int, batch_size: int) -> float:
            return float(2.718281828459045 ** (-(batch_size if self.unit == "samples" else 1) / self.half_life))

    assert not loop.moving_average(config=TimeConstant).holds


def test_during_warm_up_the_half_life_is_a_tenth_of_the_steps_so_far() -> None:
    config = EMA(half_life=100)
    assert [config.decay(step, 1) for step in (9, 99, 999, 9999)] == pytest.approx(
        [0.5**1, 0.5**0.1, 0.5**0.01, 0.5**0.01], rel=1e-15
    )
