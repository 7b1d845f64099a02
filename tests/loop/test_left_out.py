"""Examples that a run leaves out: by the steps that have them, and by their ids. Nothing else changes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.past import STEPS, past, tiny
from tests.helpers.runs import finished, finished_in, train_in

from seedfast.errors import TrainingStopped, UserError
from seedfast.families.family import Task
from seedfast.loop.left_out import batch_of, skipped, stand_in
from seedfast.loop.open import open_session
from seedfast.loop.session import Session
from seedfast.loop.step import gradient
from seedfast.loop.tasks import step_tasks
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def text(random_words: Path) -> Path:
    return random_words


@pytest.fixture(scope="module")
def base(text: Path) -> Path:
    """The run without anything left out."""
    return finished(tiny(text))


def mean_loss(session: Session, tasks: list[Task]) -> float:
    """The loss of a step, whose gradient is left in the parameters."""
    weight = float(session.summation.weight(tasks))
    return gradient(session, 0, tasks, weight).first / weight


def lines(folder: Path) -> list[str]:
    """The journal without times."""
    return [json.dumps({k: v for k, v in entry.items() if k != "time"}) for entry in journal.read(folder)]


def states(folder: Path) -> dict[int, Any]:
    """The hashes of the tensors of each checkpoint."""
    return {
        each.step: {name: file["sha256"] for name, file in each.manifest.files.items() if name.endswith(".safetensors")}
        for each in Checkpoints(folder).committed()
    }


def ids(folder: Path, step: int) -> list[int]:
    """The examples of a step, from 1."""
    the_past = past(folder)
    with the_past.session(the_past.runs_of(step)[0], None) as session:
        return session.ids(step - 1)


def test_ranges_are_those_of_the_run_without_them() -> None:
    assert skipped(("9", "3-5", "6")) == [(3, 6), (9, 9)]
    assert [batch_of(("3-5", "9"), step) + 1 for step in range(7)] == [1, 2, 6, 7, 8, 10, 11]
    assert stand_in((0, 1, 3)) == 2


class TestSkip:
    def test_the_steps_after_the_skipped_ones_have_the_examples_and_the_noise_of_later_ones(
        self, text: Path, tmp_path: Path
    ) -> None:
        with (
            open_session(tiny(text), tmp_path / "a") as whole,
            open_session(tiny(text, skip=("3-4",)), tmp_path / "b") as gap,
        ):
            assert [gap.ids(step) for step in range(4)] == [whole.ids(step) for step in (0, 1, 4, 5)]
            (ours,), (theirs,) = step_tasks(gap, 2), step_tasks(whole, 4)
            assert all(torch.equal(a, b) for a, b in zip(ours.tensors(), theirs.tensors(), strict=True))

    def test_the_steps_before_them_keep_their_bits(self, base: Path, text: Path) -> None:
        gap = finished(tiny(text, skip=("5-6",)))
        assert states(gap)[4] == states(base)[4]
        assert lines(gap)[:5] == lines(base)[:5], "four steps and a validation"
        assert lines(gap)[5] != lines(base)[5]

    def test_a_run_that_goes_back_and_skips_is_the_run_that_skipped_from_the_start(
        self, text: Path, tmp_path: Path
    ) -> None:
        gap = finished(tiny(text, skip=("5-6",)))
        finished_in(tmp_path / "b", tiny(text))
        train_in(tmp_path / "b", tiny(text, skip=("5-6",)), at=4)
        assert states(gap) == states(tmp_path / "b")
        assert lines(gap) == lines(tmp_path / "b")

    def test_what_is_past_cannot_be_skipped(self, text: Path, tmp_path: Path) -> None:
        train_in(tmp_path / "run", tiny(text, steps=4))
        with pytest.raises(UserError, match="skip would change step 2, and the run is at step 4 already"):
            train_in(tmp_path / "run", tiny(text, skip=("2-9",)))

    @pytest.mark.parametrize("wrong", ["0-3", "5-4", "a", "-3", "3-"])
    def test_what_is_no_range_is_refused(self, wrong: str, text: Path) -> None:
        with pytest.raises(UserError, match="skip must be a step, or a range such as 120-140"):
            tiny(text, skip=(wrong,))


class TestWithout:
    def test_an_example_that_is_not_seen_changes_nothing(self, base: Path, text: Path, tmp_path: Path) -> None:
        with open_session(tiny(text), tmp_path / "look") as session:
            seen = {number for step in range(STEPS) for number in session.ids(step)}
            unseen = next(number for number in range(len(session.corpus.train)) if number not in seen)
        train_in(tmp_path / "run", tiny(text, without=(unseen,)))
        assert states(tmp_path / "run") == states(base)
        assert lines(tmp_path / "run") == lines(base)

    def test_everything_is_equal_until_its_step(self, base: Path, text: Path) -> None:
        shorter = finished(tiny(text, without=(ids(base, 5)[0],)))
        assert states(shorter)[4] == states(base)[4]
        before, after = past(base).steps, past(shorter).steps
        assert [before[step] == after[step] for step in range(1, 6)] == [True] * 4 + [False]
        assert after[5]["weight"] < before[5]["weight"]

    @pytest.mark.parametrize("recipe", ["text-autoregressive", "text-masked", "text-proofreading", "image-diffusion"])
    def test_the_step_is_that_of_the_others_divided_by_their_weight(
        self, recipe: str, text: Path, tmp_path: Path
    ) -> None:
        """The gradient is the one of the other examples by themselves, with their own noise."""
        run = tiny(text, recipe)
        with open_session(run, tmp_path / "a") as whole:
            left_out = whole.ids(0)[2]
            others = tiny(text, recipe, without=(left_out,))
            # One example in a forward pass: the tasks of the others by themselves, none stands in for the third.
            whole.run = tiny(text, recipe, micro_batch=1)
            tasks = [task for place, task in enumerate(step_tasks(whole, 0)) if place != 2]
            expected = mean_loss(whole, tasks)
            wanted = [gradient.clone() for gradient in whole.state.optimizer.gradients()]
        with open_session(others, tmp_path / "b") as session:
            tasks = step_tasks(session, 0)
            loss = mean_loss(session, tasks)
            found = session.state.optimizer.gradients()
        assert loss == pytest.approx(expected, rel=1e-5)
        error = sum(float((a - b).square().sum()) for a, b in zip(wanted, found, strict=True)) ** 0.5
        assert error < 1e-4 * sum(float(a.square().sum()) for a in wanted) ** 0.5

    def test_nothing_of_the_example_reaches_the_run(self, text: Path, tmp_path: Path) -> None:
        """With other contents in its place the run is the same to the last bit."""
        other = tmp_path / "book.txt"
        with open_session(tiny(text), tmp_path / "look") as session:
            number = session.ids(1)[0]
            window = session.corpus.train.batch([number])["tokens"][0, 1:].tolist()
            shown = session.corpus.assets.tokenizer.decode(window)
        content = text.read_text()
        assert content.count(shown) == 1
        middle = shown[4:12]
        other.write_text(content.replace(shown, shown[:4] + middle[::-1] + shown[12:]))
        for name, source in (("a", text), ("b", other)):
            train_in(tmp_path / name, tiny(source, without=(number,)))
        assert states(tmp_path / "a") == states(tmp_path / "b")
        assert lines(tmp_path / "a") == lines(tmp_path / "b")

    def test_a_run_that_goes_on_without_it_is_the_run_that_began_without_it(
        self, base: Path, text: Path, tmp_path: Path
    ) -> None:
        number = ids(base, 5)[0]
        shorter = finished(tiny(text, without=(number,)))
        finished_in(tmp_path / "b", tiny(text))
        train_in(tmp_path / "b", tiny(text, without=(number,)), at=4)
        assert states(shorter) == states(tmp_path / "b")
        with pytest.raises(UserError, match=rf"the example {number}, which step 5 has seen"):
            train_in(tmp_path / "b", tiny(text))

    def test_a_step_without_any_example_stops_the_training(self, base: Path, text: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingStopped, match="step 3 has no example left"):
            train_in(tmp_path / "run", tiny(text, without=tuple(ids(base, 3))))

    def test_ids_that_there_are_not_are_refused(self, text: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="names the example 99999, and the ids of the training data end at"):
            train_in(tmp_path / "run", tiny(text, without=(99999,)))
        assert not (tmp_path / "run").exists()
