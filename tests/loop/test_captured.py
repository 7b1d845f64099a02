"""What a captured step may read: the tasks and numbers that the host overwrites, and nothing else of its own step.

A graph repeats the kernels of the step in which it was captured. Without a GPU, `Repeated` repeats that step's work, so
whatever it reads of that step shows as another digest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.outcome import outcome
from tests.helpers.quick import slow_but
from tests.helpers.runs import small_run
from torch import Tensor

from seedfast.families.family import Task
from seedfast.loop.captured import CapturedStep, Compute, ResultT
from seedfast.loop.device_numbers import DeviceNumbers
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.train import run_training
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal


class Repeated(CapturedStep):
    """Repeats the work of the captured step, with what memory then holds."""

    replays = 0

    def capture(self, compute: Compute[ResultT], tasks: list[Task]) -> tuple[ResultT, Callable[[], None]]:
        """Nothing runs at the capture; a replay overwrites the result."""
        result: list[Any] = []

        def replay() -> None:
            self.replays += 1
            new = compute(tasks)
            if not result:
                result.append(new)
            self._result = new

        return result, replay  # type: ignore[return-value]

    def without_graph(self, compute: Compute[ResultT], tasks: list[Task]) -> ResultT:
        return compute(tasks)


class InMemory(DeviceNumbers):
    """Numbers in memory that each step overwrites, as on a GPU."""

    def __call__(self, *numbers: float) -> Sequence[Tensor]:
        new = torch.tensor(numbers, dtype=torch.float64)
        self._stored = new if self._stored is None else self._stored.copy_(new)
        return self._stored.unbind(0)


class OfTheFirstReplay(InMemory):
    """A twin whose captured step keeps the numbers that it was captured with."""

    def __call__(self, *numbers: float) -> Sequence[Tensor]:
        return torch.tensor(numbers, dtype=torch.float64).unbind(0)


RECIPES = ("text-autoregressive", "text-masked", "text-block", "image-diffusion")


def train(folder: Path, run: Any, captured: CapturedStep | None, numbers: type[DeviceNumbers]) -> None:
    with open_session(run, folder) as opened:
        opened.compiled, opened.captured = "step", captured  # fixed shapes in both
        opened.numbers = numbers(opened.distributed.device)
        run_training(opened, Silent())


QUICK = [(RECIPES[0], "muon"), *((recipe, "adamw") for recipe in RECIPES[1:])]


@pytest.mark.parametrize(("recipe", "kind"), slow_but(QUICK, product(RECIPES, ("adamw", "muon"))))
def test_a_captured_step_reads_nothing_of_its_own_step(recipe: str, kind: Any, story: Path, tmp_path: Path) -> None:
    run = small_run(recipe, story, steps=8, optimizer=OptimizerConfig(kind=kind, lr=1e-2))
    repeated = Repeated()
    train(tmp_path / "captured", run, repeated, InMemory)
    train(tmp_path / "plain", run, None, InMemory)
    assert repeated.replays == 5
    assert outcome(tmp_path / "captured") == outcome(tmp_path / "plain")


def test_twin_a_captured_step_with_numbers_of_its_own_step_differs(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=8)
    train(tmp_path / "captured", run, Repeated(), OfTheFirstReplay)
    train(tmp_path / "plain", run, None, InMemory)
    assert outcome(tmp_path / "captured") != outcome(tmp_path / "plain")


def test_a_step_of_another_shape_is_done_without_the_graph(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=8, micro_batch=None)
    repeated = Repeated()
    with open_session(run, tmp_path) as opened:
        opened.captured = repeated  # without fixed shapes: the masked tokens differ in number
        run_training(opened, Silent())
    assert repeated.replays < 5
    assert all(entry["loss"] for entry in journal.read(tmp_path) if "loss" in entry)


def test_tensor_numbers_are_those_of_the_host(story: Path, tmp_path: Path) -> None:
    run = replace(small_run("text-autoregressive", story, steps=6), ema=replace(small_run("text-masked", story).ema))
    train(tmp_path / "read", run, None, InMemory)
    train(tmp_path / "given", run, None, DeviceNumbers)
    for one, other in zip(journal.read(tmp_path / "read"), journal.read(tmp_path / "given"), strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
