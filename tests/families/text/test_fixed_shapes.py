"""Tasks in fixed shapes: the same losses, and shapes that depend on nothing but the size of the batch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.runs import small_run
from tests.helpers.tasks import changed
from torch import nn

from seedfast.families.family import Task
from seedfast.families.text.autoregressive import NextTokenTask
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.masked import Masked, most_masked
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.tasks import step_tasks

CASES = {
    "text-masked": {},
    "text-masked, continuous": {"objective": Masked(estimator="continuous")},
    "text-block": {"objective": Block(block=4)},
    "text-autoregressive": {},
}


def shapes(task: Task) -> list[torch.Size]:
    return [tensor.shape for tensor in task.tensors()]


def gradient(opened: Session, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a task, and the gradient of their sum."""
    network = opened.state.network
    network.zero_grad()
    total_B = opened.family.objective.loss(network, task, {}).total_B
    total_B.sum().backward()
    return total_B.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def fill_zeros(network: nn.Module) -> None:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("case", CASES)
def test_fixed_shapes_have_the_same_losses_and_gradients(case: str, story: Path, tmp_path: Path) -> None:
    run = small_run(case.partition(",")[0], story, micro_batch=None, **CASES[case])
    with open_session(run, tmp_path) as opened:
        fill_zeros(opened.state.network)
        found = set[Any]()
        for step in range(5):
            (task,) = step_tasks(opened, step)
            if isinstance(task, NextTokenTask):  # as in the last window of a text, and in chats
                task = changed(task, scored_BL=torch.rand(task.scored_BL.shape) < 0.7)
            fixed = task.with_fixed_shapes()
            found.add(tuple(shapes(fixed)))
            (losses, gradients), (same_losses, same_gradients) = gradient(opened, task), gradient(opened, fixed)
            torch.testing.assert_close(same_losses, losses, rtol=1e-6, atol=1e-5)
            torch.testing.assert_close(same_gradients, gradients, rtol=1e-5, atol=1e-5)
        assert len(found) == 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.data())
def test_no_batch_masks_more_than_the_bound(group: int, blocks: int, size: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, group))
    jitter = [data.draw(st.sampled_from([0.0, 0.5, 1 - 2**-40])) for _ in range(group)]
    u = [(i + jitter[i]) / group for i in range(group)][-rows:]  # the highest strata
    masked = sum(1 + math.floor((time + k / blocks) % 1 * size) for time in u for k in range(blocks))
    assert masked <= most_masked(rows, blocks, size, group)


@pytest.mark.parametrize(("blocks", "size"), [(1, 64), (8, 8)])
def test_the_bound_is_near_half_of_the_positions(blocks: int, size: int) -> None:
    most, rows = most_masked(32, blocks, size, 32), 32
    assert rows * blocks * size / 2 <= most <= rows * blocks * size * 0.7


def test_twin_half_of_the_positions_is_no_bound() -> None:
    u = [(i + 1 - 2**-40) / 8 for i in range(8)]
    assert sum(1 + math.floor(time * 16) for time in u) > 8 * 16 / 2
