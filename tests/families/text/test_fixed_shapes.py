"""Tasks in fixed shapes: the same losses, and shapes that depend on nothing but the size of the batch."""

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
from seedfast.families.text.mask_counts import CountLaw, counts, most_masked
from seedfast.families.text.masked import Masked
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.tasks import step_tasks

CASES = {
    "text-masked": {},
    "text-masked, uniform": {"objective": Masked(estimator="fixed-k")},
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


LAWS: list[CountLaw] = ["root-k", "fixed-k"]


@pytest.mark.parametrize("law", LAWS)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.data())
def test_no_batch_masks_more_than_the_bound(
    law: CountLaw, group: int, blocks: int, size: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, group))
    jitter = [data.draw(st.sampled_from([0.0, 0.5, 1 - 2**-40])) for _ in range(group)]
    u = [(i + jitter[i]) / group for i in range(group)][-rows:]  # the highest strata
    u_P = torch.tensor([(time + k / blocks) % 1 for time in u for k in range(blocks)], dtype=torch.float64)
    masked = int(counts(law, u_P, torch.full((len(u_P),), size))[0].sum())
    assert masked <= most_masked(law, rows, blocks, size, group)


@pytest.mark.parametrize(("law", "share"), [("root-k", 1 / 3), ("fixed-k", 1 / 2)])
@pytest.mark.parametrize(("blocks", "size"), [(1, 64), (8, 8)])
def test_the_bound_is_near_the_mean(blocks: int, size: int, law: CountLaw, share: float) -> None:
    most, rows = most_masked(law, 32, blocks, size, 32), 32
    assert rows * blocks * size * share <= most <= rows * blocks * size * (share + 0.3)


@pytest.mark.parametrize(("law", "share"), [("root-k", 1 / 3), ("fixed-k", 1 / 2)])
def test_twin_the_mean_is_no_bound(law: CountLaw, share: float) -> None:
    u_P = (torch.arange(1, 9, dtype=torch.float64) - 2**-40) / 8
    assert counts(law, u_P, torch.full((8,), 16))[0].sum() > 8 * 16 * share


@pytest.mark.parametrize("law", LAWS)
@given(scored=st.integers(1, 2000), data=st.data())
def test_a_count_is_drawn_with_the_probability_that_its_factor_says(
    law: CountLaw, scored: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, scored))
    quantiles = []  # up to which at most k-1 and at most k tokens are masked
    for most in (k - 1, k):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            drawn = counts(law, torch.tensor([middle], dtype=torch.float64), torch.tensor([scored]))[0]
            low, high = (middle, high) if drawn <= most else (low, middle)
        quantiles.append(low)
    inside = torch.tensor([sum(quantiles) / 2], dtype=torch.float64)
    (drawn, factor) = counts(law, inside, torch.tensor([scored]))
    assert int(drawn) == k
    assert float(factor) * k * (quantiles[1] - quantiles[0]) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_counts_of_texts_with_few_scored_tokens(law: CountLaw) -> None:
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for scored in (0, 1, 3, 5, 1024, 65_536):  # the places of 5 and 1024 are rounded up
        k, factor = counts(law, ends, torch.tensor([scored, scored]))
        assert k.tolist() == [1, max(1, scored)]
        assert (factor == 0).all() if scored == 0 else (factor > 0).all()
