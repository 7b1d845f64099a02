"""Curves of a measure: the newest validation along an axis, earlier ones behind it, and no other panel for them."""

from pathlib import Path

import numpy as np
import pytest
from tests.helpers.run_folders import make, save, score, step, validation

from seedfast.families.measure import Curve, Measure
from seedfast.report import curves, history, page, plots, run_folder
from seedfast.report.history import History
from seedfast.report.theme import LIGHT

ERRORS = Curve(axis="noise", points={"error/high": 3.0, "error/low": 1.0, "error/middle": 2.0})
CALIBRATION = Curve(axis="predicted", points={"right/0.25": 0.25, "right/0.75": 0.75}, identity=True)
MEASURE = Measure(curves={"error at each noise level": ERRORS, "calibration": CALIBRATION})


def diagnostics(step: int, factor: float = 1.0) -> dict[str, float]:
    """The diagnostics of a validation, with errors that fall with the step."""
    return {
        "error/low": factor / step,
        "error/middle": 2 * factor / step,
        "error/high": 3 * factor / step,
        "other": 1.0,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Nine validations, of which only the last has a point of the calibration."""
    journal = []
    for number in range(1, 10):
        journal.append(step(number))
        more = {"right/0.25": 0.3} if number == 9 else {}
        raw, ema = diagnostics(number, 2.0) | more, diagnostics(number)
        journal.append(validation(number, raw=score(2.5, diagnostics=raw), ema=score(2.5, diagnostics=ema)))
    make(tmp_path / "run", journal, steps=9)
    save(tmp_path / "run", 9, measure=MEASURE.as_json())
    return tmp_path / "run"


@pytest.fixture
def past(run: Path) -> History:
    return history.read(run)


def test_the_manifest_names_the_diagnostics_that_are_points_of_a_curve(run: Path) -> None:
    assert run_folder.read(run).measure.curves == MEASURE.curves


def test_curves_of_version_0_1_were_called_profiles(run: Path, tmp_path: Path) -> None:
    save(run, 10, family={"profiles": MEASURE.as_json()["curves"]})
    assert run_folder.read(run).measure.curves == MEASURE.curves


def test_the_newest_validation_is_drawn_over_a_few_earlier_ones(past: History) -> None:
    drawn = curves.draw(past, MEASURE.curves, LIGHT)
    assert drawn is not None
    errors, calibration = drawn.axes
    lines = {str(line.get_label()): line for line in errors.lines}
    assert list(lines) == ["step 1", "step 2", "step 4", "step 8", "step 9, raw weights", "step 9, averaged weights"]
    for label, at, factor in (
        ("step 9, raw weights", 9, 2.0),
        ("step 9, averaged weights", 9, 1.0),
        ("step 4", 4, 1.0),
    ):
        assert list(lines[label].get_xdata()) == [1, 2, 3], "in the order of the axis, not of the names"
        assert np.allclose(lines[label].get_ydata(), [factor / at, 2 * factor / at, 3 * factor / at])
    strengths = [lines[f"step {n}"].get_alpha() for n in (1, 2, 4, 8)]
    assert strengths == sorted(strengths), "earlier validations are fainter"
    assert errors.get_xlabel() == "noise"
    assert errors.get_yscale() == "log"
    assert calibration.get_yscale() == "linear", "where the identity is a straight line"
    lines = {str(line.get_label()): line for line in calibration.lines}
    assert list(lines) == ["perfect model", "step 9, raw weights"]
    assert list(lines["perfect model"].get_xdata()) == list(lines["perfect model"].get_ydata()) == [0.25, 0.75]
    assert list(lines["step 9, raw weights"].get_xdata()) == [0.25], "a point that was not measured is left out"


def test_the_points_of_curves_have_no_panels_of_their_own(run: Path, past: History) -> None:
    context = plots.PlotContext(title="t", clip=None, best={}, measure=MEASURE)
    drawn = plots.diagnostics(past, context, LIGHT)
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["other"]
    page.write(run)
    assert "Where the model improves" in (run / "report.html").read_text()


def test_without_curves_each_diagnostic_has_a_panel(run: Path, past: History) -> None:
    drawn = plots.diagnostics(past, plots.PlotContext(title="t", clip=None, best={}), LIGHT)
    assert drawn is not None
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["error", "other", "right"]
    assert curves.draw(past, {}, LIGHT) is None


def test_a_curve_without_a_measured_point_is_not_drawn(past: History) -> None:
    assert curves.draw(past, {"later": Curve(axis="x", points={"unknown": 0.0})}, LIGHT) is None
    assert curves.draw(History(), MEASURE.curves, LIGHT) is None


@pytest.mark.parametrize(("count", "chosen"), [(0, []), (1, [0]), (3, [0, 1, 2]), (100, [0, 4, 21, 99])])
def test_the_chosen_earlier_validations_are_denser_at_the_beginning(count: int, chosen: list[int]) -> None:
    assert curves._spread(count) == chosen
