"""Two runs that part: the first step that differs, and the part of it that a planted fault changed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.cli import Run as Command
from tests.helpers.past import STEPS, book, edit_step, edit_tensors, of_recipe, own_recipe, past, tiny
from tests.helpers.runs import finished, train_in

import seedfast as package
from seedfast.loop.config import Run
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.verify.diff import Difference, diff


@pytest.fixture(scope="module")
def text(random_words: Path) -> Path:
    return random_words


@pytest.fixture(scope="module")
def base(text: Path) -> Path:
    """The run that all others are compared with."""
    return finished(tiny(text))


@pytest.fixture(scope="module")
def own(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by a recipe in a file."""
    folder = tmp_path_factory.mktemp("own")
    train_in(folder / "run", of_recipe(own_recipe(folder / "base.py"), tiny(text)))
    return folder / "run"


def compared(first: Path, folder: Path, run: Run) -> Difference:
    """The difference between a run and another one that is trained now."""
    train_in(folder, run)
    return diff(past(first), past(folder))


def optimizer(run: Run, **changes: Any) -> Run:
    return replace(run, optimizer=replace(run.optimizer, **changes))


CHANGES: dict[str, tuple[str, int, Callable[[Run], Run]]] = {
    "another order": ("examples", 3, lambda run: replace(run, skip=("3-4",))),
    "an example left out": ("examples", 2, lambda run: replace(run, without=(SECOND[0],))),
    "another learning rate": ("optimizer", 1, lambda run: optimizer(run, lr=1.01e-2)),
    "another schedule": ("optimizer", 5, lambda run: replace(run, schedule=Schedule(shape="constant", warmup=3))),
    "another beta": ("optimizer", 1, lambda run: optimizer(run, betas=(0.9, 0.96))),
    "another weight decay": ("optimizer", 1, lambda run: optimizer(run, weight_decay=0.2)),
    "other clipping": ("gradient", 1, lambda run: replace(run, clip=2e-2)),
    "another average": ("average", 1, lambda run: replace(run, ema=EMA(half_life=6, ramp=1.0))),
    "another validation": ("validation", 4, lambda run: replace(run, eval_examples=7)),
}
"""The name of a fault, the part that it changes, the first step in which it does, and the changed run."""
SECOND: list[int] = []
"""The examples of the second step of the base, found by the test of the base itself."""


@pytest.fixture(scope="module", autouse=True)
def _second(base: Path) -> None:
    found = package.replay(base, 2, rows=True, trust=True)
    SECOND[:] = [row.id for row in found.rows]


@pytest.mark.parametrize("fault", CHANGES)
def test_the_part_that_an_option_changes_is_named(fault: str, base: Path, text: Path, tmp_path: Path) -> None:
    cause, step, change = CHANGES[fault]
    found = compared(base, tmp_path / "run", change(tiny(text)))
    assert (found.cause, found.step) == (cause, step)
    assert found.settings


@pytest.mark.parametrize(
    ("fault", "cause"), [({"noise": 1}, "noise"), ({"scale": 1.5}, "forward"), ({"backward": 1.5}, "gradient")]
)
def test_the_part_that_other_code_changes_is_named(
    fault: dict[str, float], cause: str, own: Path, text: Path, tmp_path: Path
) -> None:
    run = of_recipe(own_recipe(tmp_path / "other.py", **fault), tiny(text))  # type: ignore[arg-type]
    assert compared(own, tmp_path / "run", run).cause == cause


def test_the_same_code_in_another_file_is_no_difference(own: Path, text: Path, tmp_path: Path) -> None:
    found = compared(own, tmp_path / "run", of_recipe(own_recipe(tmp_path / "copy.py"), tiny(text)))
    assert (found.step, found.cause, found.common) == (None, None, STEPS)
    assert set(found.settings) == {"recipe"}


def test_another_data_row_is_found_in_the_first_step_that_has_it(base: Path, text: Path, tmp_path: Path) -> None:
    shown = package.replay(base, 3, rows=True).rows[0]
    words = shown.shows.strip("⏎¶").split("⏎")[-1].split()
    other = tmp_path / "book.txt"
    content = text.read_text()
    place = content.index(shown.shows.replace("⏎", "\n").strip("¶"))
    here = content.index(words[1] if len(words) > 1 else words[0], place)
    other.write_text(content[:here] + content[here : here + 2][::-1] + content[here + 2 :])
    found = compared(base, tmp_path / "run", tiny(other))
    assert found.cause == "examples"
    assert found.step is not None
    assert found.step <= 3


def test_another_dropout_changes_the_forward_pass(text: Path, tmp_path: Path) -> None:
    run = tiny(text, "finetune")
    train_in(tmp_path / "a", replace(run, model=replace(run.model, dropout=0.1)))
    found = compared(tmp_path / "a", tmp_path / "b", replace(run, model=replace(run.model, dropout=0.2)))
    assert (found.cause, found.step) == ("forward", 1)


def test_a_changed_weight_is_no_step_of_the_run(base: Path, text: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    edit_tensors(copy, 4, "model", lambda tensor: tensor + 1e-3)
    train_in(copy, tiny(text), at=4)
    found = diff(past(base), past(copy))
    assert (found.cause, found.step) == ("weights", 5)
    assert found.note is not None
    assert "step-00000004" in found.note


def test_a_weight_that_changes_between_checkpoints_is_no_step_of_the_run(
    base: Path, text: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    edit_tensors(copy, 4, "model", lambda tensor: tensor + 1e-3)
    train_in(copy, tiny(text), at=4)
    shutil.rmtree(copy / "checkpoints/step-00000004")
    assert diff(past(base), past(copy)).cause == "weights"


def test_an_edited_line_is_not_blamed_on_the_steps(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    edit_step(copy, 5, loss=1.0)
    found = diff(past(base), past(copy))
    assert (found.cause, found.step) == ("journal", 5)
    assert found.note is not None
    assert str(copy) in found.note


def test_another_seed_changes_everything(base: Path, text: Path, tmp_path: Path) -> None:
    found = compared(base, tmp_path / "run", tiny(text, seed=2))
    assert (found.cause, found.step) == ("examples", 1)
    assert "weights" in found.differs
    assert set(found.settings) == {"seed"}


def test_another_network_has_other_weights(base: Path, text: Path, tmp_path: Path) -> None:
    run = tiny(text)
    found = compared(base, tmp_path / "run", replace(run, model=replace(run.model, width=8)))
    assert (found.cause, found.step) == ("weights", 1)


def test_a_run_that_is_only_longer_has_no_difference(text: Path, tmp_path: Path) -> None:
    constant = tiny(text, schedule=Schedule(shape="constant"), steps=4)
    train_in(tmp_path / "a", constant)
    found = compared(tmp_path / "a", tmp_path / "b", replace(constant, steps=6))
    assert (found.step, found.common) == (None, 4)


def test_without_the_data_the_journals_say_what_they_can(base: Path, text: Path, tmp_path: Path) -> None:
    moved = book(tmp_path / "book.txt")
    train_in(tmp_path / "run", optimizer(tiny(moved), lr=1.01e-2))
    moved.unlink()
    found = diff(past(base), past(tmp_path / "run"))
    assert (found.cause, found.step, found.start) == ("optimizer", 1, None)
    assert found.note is not None
    assert "cannot be computed again" in found.note
    moved = book(tmp_path / "book.txt")
    train_in(tmp_path / "other", replace(tiny(moved), seed=9))
    moved.unlink()
    found = diff(past(base), past(tmp_path / "other"))
    assert (found.cause, found.step) == ("unknown", 1), "its examples differ, and a new network answers alike to all"


def test_the_command_names_cause_and_settings(base: Path, text: Path, tmp_path: Path, seedfast: Command) -> None:
    train_in(tmp_path / "run", replace(tiny(text), clip=2e-2))
    status, out, _ = seedfast("diff", base, tmp_path / "run", "--json")
    found = json.loads(out)
    assert status == 1
    assert (found["step"], found["cause"], found["settings"]) == (1, "gradient", {"clip": [0.01, 0.02]})
    status, out, _ = seedfast("diff", base, tmp_path / "run")
    assert "step 1 is the first that differs, in gradient" in out
    assert "clip: 0.01 → 0.02" in out
    status, out, _ = seedfast("diff", base, base)
    assert (status, out) == (0, "no difference in 8 common steps\n")
    assert seedfast("diff", base, tmp_path / "nothing")[0] == 2
