"""The promise: what may not change a bit changes none, and what may change rounding changes no more.

Runs that others are compared with are trained once for the module. What is the same code in every family is tested
with two of them, and with the others among the slow tests.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.helpers.processes import Command, seedfast
from tests.helpers.quick import slow_but
from tests.helpers.runs import FAMILIES, FINETUNE, few_steps, flags, small_run, train_in, train_until
from torch import Tensor

from seedfast.data.caption.config import CaptionData
from seedfast.data.text.config import TextData
from seedfast.families.family import Task
from seedfast.families.image.augment import Augment
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.step import gradient
from seedfast.loop.tasks import step_tasks
from seedfast.loop.train import agree
from seedfast.run_folder import journal
from seedfast.run_folder.train_state import digest, read_tensors
from seedfast.verify.resume import compare
from seedfast.verify.saboteur import Plan


def weights(folder: Path) -> str:
    newest = sorted((folder / "checkpoints").glob("step-????????"))[-1]
    return digest(read_tensors(newest))


RECIPES = (*FAMILIES, FINETUNE)
UNLIKE = ("text-proofreading", "text-embedding", "image-diffusion", "image-caption", FINETUNE)
"""Those with the most states, and those least like others."""


@pytest.fixture(scope="module", params=slow_but(UNLIKE, RECIPES))
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Trained(NamedTuple):
    """A run and the folder in which it was trained without interruption."""

    run: Run
    folder: Path


@pytest.fixture(scope="module")
def short(recipe: str, story: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of eight steps with validations and checkpoints every three. Captions are self-critical from step 5 on."""
    run = small_run(recipe, story, steps=8, save_every=3, eval_every=3, keep=10)
    if recipe == "image-caption":
        run = replace(run, objective=replace(run.objective, self_critical=5))
    return trained(run, tmp_path_factory)


@pytest.fixture(scope="module")
def with_dropout(recipe: str, story: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of six steps with dropout, whose random numbers depend on the micro-batch."""
    run = small_run(recipe, story, steps=6, eval_every=4, sampling=few_steps(recipe))
    part = {"dropout": 0.1}
    if recipe == "image-caption":
        part = {"decoder": replace(run.model.decoder, **part), "vit": replace(run.model.vit, **part)}
    return trained(replace(run, model=replace(run.model, **part)), tmp_path_factory)


def trained(run: Run, folders: pytest.TempPathFactory) -> Trained:
    """The run, trained in a new folder."""
    folder = folders.mktemp(run.recipe)
    train_in(folder, run)
    return Trained(run, folder)


def check_split(whole: Trained, steps: Sequence[int], folder: Path) -> None:
    """Assert that several sessions, which end after these steps, leave what one session left."""
    for step in steps:
        with open_session(whole.run, folder) as opened:
            train_until(opened, step)
    train_in(folder, whole.run)
    difference, compared = compare(whole.folder, folder)
    assert difference is None, f"split at {steps}: {difference}"
    assert compared


def test_several_sessions_give_the_bits_of_one(short: Trained, tmp_path: Path) -> None:
    """They end before a checkpoint, at a checkpoint and a validation, and before the end."""
    check_split(short, (1, 3, 7), tmp_path)


@pytest.mark.parametrize("recipe", ["text-proofreading"], indirect=True)  # the family with curricula and most states
def test_a_session_for_each_step_gives_the_same_bits(short: Trained, tmp_path: Path) -> None:
    check_split(short, range(1, 8), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 8))
def test_two_sessions_give_the_bits_of_one(step: int, short: Trained, tmp_path: Path) -> None:
    check_split(short, [step], tmp_path)


@pytest.mark.parametrize("recipe", slow_but(["text-masked"], RECIPES), indirect=True)
def test_twin_a_session_that_loses_its_average_differs(short: Trained, tmp_path: Path) -> None:
    run = short.run
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 4)
    with open_session(run, tmp_path / "split") as opened:
        assert opened.state.average is not None
        for name, average in opened.state.average.network.named_parameters():
            average.copy_(dict(opened.state.network.named_parameters())[name])
        train_until(opened, 8)
    difference, _ = compare(short.folder, tmp_path / "split")
    assert difference is not None
    assert "ema/" in difference


@pytest.mark.parametrize(
    "change",
    [
        {"eval_every": 0, "log_every": 1, "sample_every": 4, "workers": 1, "tensorboard": True},
        {"eval_every": 5, "eval_examples": 16, "save_every": 1, "keep": 5, "sample_every": 0, "workers": 3},
    ],
    ids=["without validations", "often"],
)
def test_validations_checkpoints_samples_and_workers_change_no_bit(
    change: dict[str, Any], with_dropout: Trained, tmp_path: Path
) -> None:
    train_in(tmp_path, replace(with_dropout.run, **change))
    assert weights(tmp_path) == weights(with_dropout.folder)


@pytest.mark.parametrize("recipe", slow_but(["text-masked", "image-diffusion"], RECIPES), indirect=True)
def test_twin_another_seed_changes_bits(with_dropout: Trained, tmp_path: Path) -> None:
    train_in(tmp_path, replace(with_dropout.run, seed=2))
    assert weights(tmp_path) != weights(with_dropout.folder)


def fill_zeros(network: torch.nn.Module) -> None:
    """Random weights for layers that start at zero, which hide the gradients of the others."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)


def uneven(recipe: str, text: Path, micro_batch: int | None) -> Run:
    """A run whose examples differ in weight: the last window is short, a class counts more."""
    run = small_run(recipe, text, micro_batch=micro_batch, batch_size=24)
    return replace(run, data=replace(run.data, context=64)) if isinstance(run.data, TextData) else run


def choose_uneven(opened: Session) -> None:
    """Train on a few examples that differ in weight."""
    some = [len(opened.corpus.train) - 1, 0, len(opened.corpus.train) - 2]
    opened.order.ids = lambda start, stop: [some[n % 3] for n in range(start, stop)]  # type: ignore[method-assign]


def doubled(task: Task) -> Task:
    """A task in float64: in float32 convolutions round differently for each batch size."""
    values = {f.name: getattr(task, f.name) for f in fields(task)}
    floats = {name: v.double() for name, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return replace(task, **floats)


def uneven_tasks(opened: Session, recipe: str) -> list[Task]:
    """The tasks of the first step on a few uneven examples, for a network without zeros."""
    choose_uneven(opened)
    fill_zeros(opened.state.network)
    tasks = step_tasks(opened, 0)
    if recipe != "image-diffusion":
        return tasks
    opened.state.network.double()
    return [doubled(task) for task in tasks]


Gradient = tuple[float, list[Tensor]]


def first_gradient(recipe: str, text: Path, folder: Path, micro_batch: int | None) -> Gradient:
    """Loss and gradient of a step whose windows do not all have the same number of scored tokens."""
    run = uneven(recipe, text, micro_batch=micro_batch)
    with open_session(run, folder) as opened:
        tasks = uneven_tasks(opened, recipe)
        assert len({float(w) for task in tasks for w in task.weight_B}) > 1
        weight, _, _ = agree(opened, opened.summation.weight(tasks), None, False)
        loss = gradient(opened, 0, tasks, weight).first / weight
        return loss, [p.grad.clone() for p in opened.state.network.parameters() if p.grad is not None]


@pytest.fixture(scope="module")
def whole_gradient(recipe: str, story: Path, tmp_path_factory: pytest.TempPathFactory) -> Gradient:
    """Loss and gradient of that step in one forward pass."""
    return first_gradient(recipe, story, tmp_path_factory.mktemp("whole"), None)


@pytest.mark.parametrize("micro_batch", slow_but([1, 7], [1, 5, 7, 12]))
def test_micro_batches_add_up(
    recipe: str, micro_batch: int, whole_gradient: Gradient, story: Path, tmp_path: Path
) -> None:
    loss, whole = whole_gradient
    split_loss, split = first_gradient(recipe, story, tmp_path, micro_batch)
    assert split_loss == pytest.approx(loss, rel=1e-6)
    error = sum((a - b).square().sum() for a, b in zip(whole, split, strict=True)).sqrt()
    assert error / sum(a.square().sum() for a in whole).sqrt() < 1e-6


# Under random frozen weights all losses are log V, however averaged.
@pytest.mark.parametrize("recipe", slow_but(UNLIKE[:-1], FAMILIES), indirect=True)
def test_twin_a_mean_of_means_does_not_add_up(
    recipe: str, whole_gradient: Gradient, story: Path, tmp_path: Path
) -> None:
    loss, _ = whole_gradient
    run = uneven(recipe, story, micro_batch=7)
    with open_session(run, tmp_path) as opened:
        tasks = uneven_tasks(opened, recipe)
        weights = [float(task.weight_B.sum()) for task in tasks]
        means = [gradient(opened, 0, [task], w).first / w for task, w in zip(tasks, weights, strict=True)]
    assert abs(sum(means) / len(means) - loss) > 1e-6 * loss


def test_validation_with_the_training_key_is_the_training_loss(recipe: str, story: Path, tmp_path: Path) -> None:
    run = small_run(recipe, story, micro_batch=None)
    if isinstance(run.data, CaptionData):  # validation scores all captions and does not smooth labels
        run = replace(run, objective=replace(run.objective, captions_per_image=None, label_smoothing=0.0))
    elif not isinstance(run.data, TextData):  # validation images are not augmented
        run = replace(run, objective=replace(run.objective, augment=Augment()))
    with open_session(run, tmp_path) as opened:
        tasks = step_tasks(opened, 0)
        weight = agree(opened, opened.summation.weight(tasks), None, False)[0]
        trained = gradient(opened, 0, tasks, weight).first / weight
        ids = opened.order.ids(0, run.batch_size)
        draws = Draws(seed=run.seed, scope="train", positions_B=torch.arange(run.batch_size), group=run.batch_size)
        opened.state.network.eval()
        objective = opened.family.objective.for_step(0)
        task = objective.task(opened.corpus.train.batch(ids), draws)
        validated = objective.loss(opened.state.network, task, {}).total_B.double().sum() / task.weight_B.sum()
    assert float(validated.detach()) == pytest.approx(trained, rel=1e-7)


def test_lines_of_the_journal_after_the_last_checkpoint_are_cut(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=10)
    train_in(tmp_path / "a", run)
    clean = (tmp_path / "a/journal.jsonl").read_bytes()
    with (tmp_path / "a/journal.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "loss": 0.0}\n{"step": 12, "lo')
    train_in(tmp_path / "a", run)
    assert (tmp_path / "a/journal.jsonl").read_bytes() == clean


def test_a_late_step_costs_no_more_than_the_first(story: Path, tmp_path: Path) -> None:
    """The sample stream is indexed, not consumed."""
    run = small_run("text-masked", story)
    with open_session(run, tmp_path) as opened:
        opened.order.ids(0, 1)
        far = 10**9
        ids = [opened.order.ids(far * 6 + i, far * 6 + i + 1)[0] for i in range(6)]
        assert ids == opened.order.ids_at(torch.arange(far * 6, far * 6 + 6)).tolist()
        tasks = step_tasks(opened, far)
        assert sum(len(task.weight_B) for task in tasks) == 6


def lines_without_times(folder: Path) -> list[str]:
    return [json.dumps({k: v for k, v in entry.items() if k != "time"}) for entry in journal.read(folder)]


@pytest.mark.parametrize("recipe", slow_but(["text-proofreading", "image-diffusion"], RECIPES), indirect=True)
def test_rewinding_to_an_earlier_step_repeats_the_rest(short: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(short.folder, tmp_path / "run"))
    train_in(folder, short.run, at=3)
    assert weights(folder) == weights(short.folder)
    assert lines_without_times(folder) == lines_without_times(short.folder)
    assert list((folder / "checkpoints").glob("*.aside-1")), "the later checkpoints are moved, not removed"


KILLS = {"step": 1, "save": 2, "write": 2, "rename": 2, "pointer": 2, "validate": 3, "retire": 5}
"""The moments at which a process is killed, one after another, each once a step has begun."""


@pytest.mark.parametrize("recipe", slow_but(["text-proofreading"], FAMILIES))
def test_kill_9_in_every_phase(recipe: str, story: Path, tmp_path: Path) -> None:
    """Real processes are killed: in a step, a save, its writes, its rename, the pointers, a validation, a removal."""
    run = small_run(recipe, story, steps=10, eval_every=4, save_every=3)
    train = ["train", recipe, *flags(run), "--out"]
    for moment, after in KILLS.items():
        plan = Plan(moment, after=after).encode()  # type: ignore[arg-type]
        killed = Command("seedfast.verify.saboteur", [plan, *train, tmp_path / "killed"])
        assert killed.finish().returncode == -9, moment
    for folder in ("killed", "whole"):
        seedfast(*train, tmp_path / folder, check=True)
    assert compare(tmp_path / "whole", tmp_path / "killed")[0] is None
