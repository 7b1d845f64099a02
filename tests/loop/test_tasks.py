"""The tasks of the training steps, and the preview that shows them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers.runs import TEXTS, small_run

from seedfast.evaluate.preview import preview
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.tasks import positions_task, prefetched_tasks, step_tasks


def check_equal(one: object, other: object) -> None:
    """Assert that two tasks have the same fields, bit for bit."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other, name)), name


def step_task(opened: Session, step: int) -> object:
    """The task of a whole step by its positions in the sample stream."""
    start, size = step * opened.run.batch_size, opened.run.batch_size
    objective = opened.family.objective.for_step(step)
    return positions_task(opened.run, objective, opened.corpus.train, opened.order, start, start + size)[1]


def test_the_positions_of_a_step_are_its_part_of_the_sample_stream(story: Path, tmp_path: Path) -> None:
    with open_session(small_run("text-masked", story, micro_batch=None), tmp_path) as opened:
        for step in (0, 1, 7):
            (task,) = step_tasks(opened, step)
            check_equal(task, step_task(opened, step))


def test_twin_other_positions_are_another_task(story: Path, tmp_path: Path) -> None:
    with open_session(small_run("text-masked", story, micro_batch=None), tmp_path) as opened:
        (task,) = step_tasks(opened, 0)
        with pytest.raises(AssertionError):
            check_equal(task, step_task(opened, 1))


def test_the_batch_of_a_task_holds_the_examples_at_its_positions(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story)
    with open_session(run, tmp_path) as opened:
        objective, train = opened.family.objective, opened.corpus.train
        batch, task = positions_task(run, objective, train, opened.order, 4, 9)
        assert torch.equal(batch["tokens"], train.batch(opened.order.ids(4, 9))["tokens"])
        assert len(task.weight_B) == 5


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_prepare_the_same_tasks_in_order(workers: int, story: Path, tmp_path: Path) -> None:
    with open_session(small_run("text-masked", story, workers=workers), tmp_path) as opened:
        prefetched = list(prefetched_tasks(opened, 2, 7))
        assert [step for step, _ in prefetched] == [2, 3, 4, 5, 6]
        for step, prepared in prefetched:
            for task, expected in zip(prepared.tasks, step_tasks(opened, step), strict=True):
                check_equal(task, expected)
            assert prepared.weight == opened.summation.weight(prepared.tasks)


@pytest.mark.parametrize("recipe", TEXTS)
def test_a_preview_of_more_samples_than_a_batch_shows_the_tasks_of_training(
    recipe: str, story: Path, tmp_path: Path
) -> None:
    run = small_run(recipe, story, micro_batch=None)
    shown = preview(run, count=9, step=1)
    with open_session(replace(run), tmp_path) as opened:
        assert opened.family.preview is not None
        expected = []
        for step in (1, 2):
            start, size = step * run.batch_size, run.batch_size
            ids = opened.order.ids(start, start + size)
            (task,) = step_tasks(opened, step)
            expected += opened.family.preview(opened.corpus.train.batch(ids), task)
    spans = [(each.source, each.inputs, each.targets) for each in shown]
    assert spans == [(each.source, each.inputs, each.targets) for each in expected[:9]]
