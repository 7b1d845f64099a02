"""The loop's identities without a run folder, and twins with means of means, other keys or late averages."""

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
    return [(objective(Masked(), assets(3, 4)), arbitrary_table(3, 4))]


class DrawsForItself(MaskedObjective):
    """Its masks come from torch's own generator."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, seed=int(torch.randint(1 << 30, ()))))


class SpreadsOverTheMicroBatch(MaskedObjective):
    """It stratifies over the micro-batch."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, group=len(draws.positions_B)))


class NumbersRows(MaskedObjective):
    """Its noise belongs to the row of the batch instead of the example."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        return super().task(batch, replace(draws, positions_B=torch.arange(len(draws.positions_B))))


class CountsRows(MaskedObjective):
    """Its weight depends on the other examples of the batch."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return replace(task, weight_B=task.weight_B.double().mean().expand_as(task.weight_B))


def test_the_task_of_an_example_does_not_depend_on_its_process() -> None:
    assert loop.split_invariance().holds


@pytest.mark.parametrize("twin", [DrawsForItself, SpreadsOverTheMicroBatch, NumbersRows, CountsRows])
def test_twins_whose_tasks_depend_on_the_split_fail(twin: type[MaskedObjective]) -> None:
    assert not loop.split_invariance(lambda: only(twin)).holds


class AveragesOverTheBatch(MaskedObjective):
    """Its loss depends on the other examples of the batch."""

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        terms = super().loss(network, task, state)
        return replace(terms, total_B=terms.total_B / task.weight_B.double().mean())


def test_micro_batches_add_up() -> None:
    assert loop.accumulation().holds


def _mean_of_means(tasks: Sequence[Task], index: int) -> float:
    return len(tasks) * float(tasks[index].weight_B.sum())


def _examples(tasks: Sequence[Task], index: int) -> float:
    return float(len(tasks[index].weight_B))


@pytest.mark.parametrize("divisor", [_mean_of_means, _examples])
def test_twins_with_another_divisor_than_the_global_weight_fail(divisor: Any) -> None:
    assert not loop.accumulation(divisor=divisor).holds


@pytest.mark.parametrize("twin", [AveragesOverTheBatch, SpreadsOverTheMicroBatch, NumbersRows])
def test_twins_of_the_objective_fail(twin: type[MaskedObjective]) -> None:
    assert not loop.accumulation(lambda: only(twin)).holds


def test_validation_with_the_training_key_is_the_training_loss() -> None:
    assert loop.validation_is_training_loss().holds


def _other_key(*arguments: Any, seed: int, **options: Any) -> Score:
    return validate(*arguments, seed=seed + 1, **options)


def _per_batch(family: Any, network: Any, state: Any, dataset: Any, examples: Any, **options: Any) -> Score:
    """The mean of the losses of the batches."""
    size = options["batch_size"]
    parts = [examples[start : start + size] for start in range(0, len(examples), size)]
    scores = [validate(family, network, state, dataset, part, **options) for part in parts]
    return replace(scores[0], loss=sum(score.loss for score in scores) / len(scores))


def _leaves_out(family: Any, network: Any, state: Any, dataset: Any, examples: Any, **options: Any) -> Score:
    """It drops the last, incomplete batch."""
    full = len(examples) // options["batch_size"] * options["batch_size"]
    return validate(family, network, state, dataset, examples[:full], **options)


def _overconfident(*arguments: Any, **options: Any) -> Score:
    """Its standard error lacks Bessel's correction."""
    score = validate(*arguments, **options)
    return replace(score, standard_error=score.standard_error * ((score.examples - 1) / score.examples) ** 0.5)


@pytest.mark.parametrize("twin", [_other_key, _per_batch, _leaves_out, _overconfident])
def test_twins_that_validate_something_else_fail(twin: Any) -> None:
    assert not loop.validation_is_training_loss(twin).holds


class Late(Average):
    """Each update uses the weights of the update before."""

    def __init__(self, network: nn.Module) -> None:
        self._newest, self._behind = network, copy.deepcopy(network)
        super().__init__(self._behind)

    def update(self, decay: float) -> None:
        super().update(decay)
        self._behind.load_state_dict(self._newest.state_dict())


class Swapped(Average):
    """It confuses the weights of the old average and of the new parameters."""

    def update(self, decay: float) -> None:
        super().update(1 - decay)


class CopiesNoBuffers(Average):
    """It does not copy integer buffers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._buffers = []


class Debiased(Average):
    """It divides by 1 - dⁿ, as Adam's moments do, although it starts from the weights."""

    _n = 0

    def update(self, decay: float) -> None:
        for own in self.network.parameters():
            own.mul_(1 - decay**self._n)
        super().update(decay)
        self._n += 1
        for own in self.network.parameters():
            own.div_(1 - decay**self._n)


def test_the_moving_average_has_its_closed_form() -> None:
    assert loop.moving_average().holds


@pytest.mark.parametrize("twin", [Late, Swapped, CopiesNoBuffers, Debiased])
def test_twins_that_average_something_else_fail(twin: type[Average]) -> None:
    assert not loop.moving_average(twin).holds


def test_twin_whose_half_life_is_a_time_constant_fails() -> None:
    class TimeConstant(EMA):
        def decay(self, step: int, batch_size: int) -> float:
            return float(2.718281828459045 ** (-(batch_size if self.unit == "samples" else 1) / self.half_life))

    assert not loop.moving_average(config=TimeConstant).holds


def test_during_the_ramp_the_half_life_is_a_tenth_of_the_steps() -> None:
    config = EMA(half_life=100)
    assert [config.decay(step, 1) for step in (9, 99, 999, 9999)] == pytest.approx(
        [0.5**1, 0.5**0.1, 0.5**0.01, 0.5**0.01], rel=1e-15
    )
