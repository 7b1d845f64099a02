"""Exact sums: a run has the same bits for every micro-batch and number of processes, to the last diagnostic."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.outcome import outcome
from tests.helpers.processes import LIMIT, ranks, start_ranks
from tests.helpers.quick import slow_but
from tests.helpers.runs import FAMILIES, FINETUNE, flags, small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.placement.placement import Placement
from seedfast.loop.plain_config import to_yaml
from seedfast.loop.step import gradient
from seedfast.loop.summation import LARGEST, ExactSummation, carries, split
from seedfast.loop.tasks import step_tasks
from seedfast.models.transformer import Transformer

Outcome = tuple[str, list[Any]]
Sum = Callable[[list[torch.Tensor]], torch.Tensor]


def exact(addends: list[torch.Tensor]) -> torch.Tensor:
    """The sum of the multiples of both units."""
    coarse = LARGEST * 2.0 ** (carries(len(addends)) - 53)
    fine = coarse * 2.0 ** (carries(len(addends)) - 54)
    high, low = zip(*(split([each.double()], coarse, fine) for each in addends), strict=True)
    return sum((h for (h,) in high), torch.zeros(())) + sum((l for (l,) in low), torch.zeros(()))  # noqa: E741


def plain(addends: list[torch.Tensor]) -> torch.Tensor:
    """The sum in float64."""
    return sum((each.double() for each in addends), torch.zeros(()))


def wide(count: int) -> list[torch.Tensor]:
    """Gradients of sizes from 1e-16 to 1e9."""
    generator = torch.Generator().manual_seed(3)
    sizes = 10.0 ** torch.linspace(-16, 9, 500)
    return [
        torch.randn(500, generator=generator) * sizes[torch.randperm(500, generator=generator)] for _ in range(count)
    ]


def is_order_free(add: Sum, addends: list[torch.Tensor]) -> bool:
    """Whether three orders give the same bits."""
    half = len(addends) // 2
    total = add(addends)
    return all(torch.equal(add(order), total) for order in (addends[::-1], addends[half:] + addends[:half]))


@pytest.mark.parametrize("count", [1, 2, 3, 20, 64, 1000])
def test_a_sum_has_the_same_bits_in_every_order(count: int) -> None:
    addends = wide(count)
    assert is_order_free(exact, addends)
    for place, total in enumerate(exact(addends).tolist()):
        unit = LARGEST * 2.0 ** (2 * carries(count) - 107)
        true = math.fsum(float(each[place]) for each in addends)
        assert abs(total - true) <= count * unit / 2 + abs(true) * 2**-53


def test_twin_a_plain_sum_depends_on_the_order() -> None:
    assert not is_order_free(plain, wide(20))


def tiny(recipe: str, story: Path, **changes: Any) -> Run:
    """A run of two steps with a validation, which one and two processes can share."""
    small: dict[str, Any] = {"steps": 2, "eval_every": 2, "batch_size": 4, "micro_batch": None, "exact_sums": True}
    return small_run(recipe, story, **small | changes)


def train_by(processes: int, folder: Path, run: Run) -> Outcome:
    """What a run by this many real processes leaves."""
    config = folder.with_suffix(".yaml")
    config.write_text(to_yaml(run))
    group = start_ranks(processes, "seedfast", ["train", "--config", config, "--no-report", "--out", folder])
    done = [command.finish(LIMIT + 5 * run.steps) for command in group]
    assert [each.returncode for each in done] == [0] * processes, done[0].stderr
    return outcome(folder)


def train_here(folder: Path, run: Run) -> Outcome:
    """What a run by this process leaves."""
    train_in(folder, run)
    return outcome(folder)


@pytest.mark.parametrize(
    "recipe",
    slow_but(["text-proofreading", "text-embedding", "image-diffusion", "image-caption"], [*FAMILIES, FINETUNE]),
)
def test_micro_batches_change_no_bit(recipe: str, story: Path, tmp_path: Path) -> None:
    whole, single = (train_here(tmp_path / str(size), tiny(recipe, story, micro_batch=size)) for size in (None, 1))
    assert whole == single


# Images have weights of classes, which are no whole numbers, and captions have forward passes of several lengths.
@pytest.mark.parametrize("recipe", ["image-diffusion", "image-caption"])
def test_two_processes_change_no_bit(recipe: str, story: Path, tmp_path: Path) -> None:
    run = tiny(recipe, story)
    assert train_by(2, tmp_path / "two", replace(run, micro_batch=1)) == train_here(tmp_path / "one", run)


def test_twin_plain_sums_of_the_same_forward_passes_depend_on_the_number_of_processes(
    story: Path, tmp_path: Path
) -> None:
    run = tiny("text-masked", story, exact_sums=False, micro_batch=1)
    assert train_by(2, tmp_path / "two", run) != train_here(tmp_path / "one", run)


def test_twin_plain_sums_depend_on_the_micro_batch(story: Path, tmp_path: Path) -> None:
    run = tiny("text-masked", story, exact_sums=False)
    assert train_here(tmp_path / "a", run) != train_here(tmp_path / "b", replace(run, micro_batch=1))


def test_a_run_continues_with_other_processes_to_the_same_bits(story: Path, tmp_path: Path) -> None:
    run = tiny("text-masked", story, exact_chunk=2)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 1)
    assert train_by(2, tmp_path / "split", run) == train_here(tmp_path / "whole", run)


def test_dropout_has_the_same_masks_in_every_process(story: Path, tmp_path: Path) -> None:
    run = tiny("text-masked", story, model=Transformer(layers=1, heads=2, width=16, dropout=0.2))
    with open_session(run, tmp_path) as opened:
        passes = [opened.summation.numbering(index, 4) for index in range(4)]
    places = [replace(opened.distributed, rank=rank, world_size=2) for rank in range(2)]
    halves = [ExactSummation(Placement(place), 4) for place in places]
    assert [half.numbering(index, 2) for half in halves for index in range(2)] == passes


def test_the_exact_gradient_is_the_plain_one_to_rounding(story: Path, tmp_path: Path) -> None:
    gradients = []
    for exact_sums in (True, False):
        with open_session(tiny("text-masked", story, exact_sums=exact_sums), tmp_path / str(exact_sums)) as opened:
            tasks = step_tasks(opened, 0)
            gradient(opened, 0, tasks, float(opened.summation.weight(tasks)))
            gradients.append([parameter.grad for parameter in opened.state.optimizer.trained])
    for exactly, plainly in zip(*gradients, strict=True):
        torch.testing.assert_close(exactly, plainly, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("broken", [math.inf, math.nan, 2 * LARGEST])
def test_a_gradient_beyond_the_sums_stops_the_training(broken: float, story: Path, tmp_path: Path) -> None:
    with open_session(tiny("text-masked", story), tmp_path) as opened:
        weight = next(iter(opened.state.optimizer.trained))
        weight.grad = torch.full_like(weight, broken)
        opened.summation.add(opened.state)
        opened.summation.finish(opened.state)
        assert weight.grad.isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exact_chunk": 3}, r"exact_chunk \(3\) must divide batch_size \(4\)"),
        (
            {"exact_chunk": 2, "micro_batch": 1},
            r"exact_chunk \(2\) is more than the 1 examples that micro_batch allows",
        ),
        ({"micro_batch": "auto"}, "micro_batch auto has no effect with exact_sums"),
        ({"exact_sums": False, "exact_chunk": 2}, "no effect without exact_sums"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str, story: Path) -> None:
    with pytest.raises(UserError, match=message):
        tiny("text-masked", story, **changes)


def test_too_many_processes_for_the_chunks_are_refused(story: Path, tmp_path: Path) -> None:
    words = [*flags(tiny("text-masked", story, micro_batch=4)), "--exact-sums", "--exact-chunk", "4"]
    done = ranks(2, "train", "text-masked", *words, "--out", tmp_path / "x")
    assert [each.returncode for each in done] == [2, 2]
    assert "exact_chunk 4 does not divide the 2 examples of each of 2 processes" in done[0].stderr


@pytest.fixture(scope="module", params=["text-autoregressive", "text-masked", "image-diffusion", "image-caption"])
def long(request: pytest.FixtureRequest, story: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
    """A run of 200 steps, and what it leaves when one process trains it."""
    run = small_run(request.param, story, steps=200, eval_every=50, save_every=100, batch_size=20, exact_sums=True)
    run = replace(run, micro_batch=None)
    return run, train_here(tmp_path_factory.mktemp(run.recipe), run)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [1, 2, 5, None])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_two_hundred_steps_have_the_same_bits_in_every_topology(
    processes: int, micro_batch: int | None, long: tuple[Run, Outcome], tmp_path: Path
) -> None:
    run, whole = long
    assert train_by(processes, tmp_path / "run", replace(run, micro_batch=micro_batch)) == whole
