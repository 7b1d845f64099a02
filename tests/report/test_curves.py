"""Profiles: the newest validation along an axis, earlier ones behind it, and no panel besides."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.run_folders import make, save, score, step, validation

from seedfast.families.profile import Profile
from seedfast.report import history, page, plots, profiles, run_folder
from seedfast.report.history import History
from seedfast.report.theme import LIGHT

ERRORS = Profile(axis="noise", points={"error/high": 3.0, "error/low": 1.0, "error/middle": 2.0})
CALIBRATION = Profile(axis="foretold", points={"right/0.25": 0.25, "right/0.75": 0.75}, identity=True)
TITLES = {"error at each noise": ERRORS, "calibration": CALIBRATION}


def found(at: int, by: float = 1.0) -> dict[str, float]:
    """What a validation at a step finds: the later, the smaller."""
    return {"error/low": by / at, "error/middle": 2 * by / at, "error/high": 3 * by / at, "other": 1.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Nine validations, of which the last alone knows how sure it should be."""
    journal = []
    for number in range(1, 10):
        journal.append(step(number))
        more = {"right/0.25": 0.3} if number == 9 else {}
        raw, ema = found(number, 2.0) | more, found(number)
        journal.append(validation(number, raw=score(2.5, diagnostics=raw), ema=score(2.5, diagnostics=ema)))
    make(tmp_path / "run", journal, steps=9)
    declared = {title: asdict(profile) for title, profile in TITLES.items()}
    save(tmp_path / "run", 9, family={"profiles": declared})
    return tmp_path / "run"


@pytest.fixture
def past(run: Path) -> History:
    return history.read(run)


def test_the_folder_says_which_diagnostics_are_points(run: Path) -> None:
    assert run_folder.read(run).profiles == TITLES


def test_the_newest_validation_stands_before_a_few_earlier_ones(past: History) -> None:
    drawn = profiles.draw(past, TITLES, LIGHT)
    assert drawn is not None
    errors, calibration = drawn.axes
    lines = {str(line.get_label()): line for line in errors.lines}
    assert list(lines) == ["step 1", "step 2", "step 4", "step 8", "step 9, raw weights", "step 9, averaged weights"]
    for label, at, by in (("step 9, raw weights", 9, 2.0), ("step 9, averaged weights", 9, 1.0), ("step 4", 4, 1.0)):
        assert list(lines[label].get_xdata()) == [1, 2, 3], "in the order of the axis, whatever the names'"
        assert np.allclose(lines[label].get_ydata(), [by / at, 2 * by / at, 3 * by / at])
    strengths = [lines[f"step {n}"].get_alpha() for n in (1, 2, 4, 8)]
    assert strengths == sorted(strengths), "the earlier, the fainter"
    assert errors.get_xlabel() == "noise"
    assert errors.get_yscale() == "log"
    assert calibration.get_yscale() == "linear", "where the identity is a straight line"
    lines = {str(line.get_label()): line for line in calibration.lines}
    assert list(lines) == ["as it should be", "step 9, raw weights"]
    assert list(lines["as it should be"].get_xdata()) == list(lines["as it should be"].get_ydata()) == [0.25, 0.75]
    assert list(lines["step 9, raw weights"].get_xdata()) == [0.25], "a point that was not found is left out"


def test_its_points_have_no_panels_besides(run: Path, past: History) -> None:
    facts = plots.Facts(title="t", clip=None, best={}, profiles=TITLES)
    drawn = plots.diagnostics(past, facts, LIGHT)
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["other"]
    page.write(run)
    assert "Where the model gains" in (run / "report.html").read_text()


def test_a_run_that_declares_none_has_panels_as_before(run: Path, past: History) -> None:
    drawn = plots.diagnostics(past, plots.Facts(title="t", clip=None, best={}), LIGHT)
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["error", "other", "right"]
    assert profiles.draw(past, {}, LIGHT) is None


def test_what_has_not_been_measured_yet_is_not_drawn(past: History) -> None:
    assert profiles.draw(past, {"later": Profile(axis="x", points={"unknown": 0.0})}, LIGHT) is None
    assert profiles.draw(History(), TITLES, LIGHT) is None


@pytest.mark.parametrize(("count", "chosen"), [(0, []), (1, [0]), (3, [0, 1, 2]), (100, [0, 4, 21, 99])])
def test_earlier_validations_are_closer_at_the_beginning(count: int, chosen: list[int]) -> None:
    assert profiles._spread(count) == chosen
