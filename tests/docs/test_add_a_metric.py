"""The tutorial's metric, extracted from the page, is measured by the command and by the Python interface."""

import json
import re
from pathlib import Path

import pytest
from tests.helpers.runs import small_run, train_in

import seedfast
from seedfast.cli import main

PAGE = Path(__file__).parents[2] / "docs/tutorials/add-a-metric.md"


@pytest.fixture(scope="module")
def run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric") / "run"
    train_in(folder, small_run("text-autoregressive", story))
    return folder


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    path = tmp_path_factory.mktemp("own") / "my_metric.py"
    path.write_text(found[1])
    return f"{path}:known_words"


def test_the_command_reports_it_beside_the_loss(run: Path, metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["evaluate", str(run), "--only", "loss", metric, "--json"])
    assert not status.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["nats_per_token"] > 0
    assert 0 <= record["known_words"]["known_words"] <= 1


def test_the_python_interface_measures_the_same(run: Path, metric: str) -> None:
    model = seedfast.load(run)
    assert model.evaluate(metric) == model.evaluate(metric)


@pytest.mark.parametrize(
    ("only", "message"),
    [("lost", "no metric called lost; did you mean loss"), ("nowhere.py:f", "does not exist"),
     ("fidelity", "image")],
)  # fmt: skip
def test_metrics_that_do_not_exist_or_fit_are_refused(run: Path, only: str, message: str) -> None:
    with pytest.raises(seedfast.UserError, match=message):
        seedfast.load(run).evaluate(only)


def test_an_unknown_metric_is_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["evaluate", str(run), "--only", "lost"])
    assert status.value.code == 2
    assert capsys.readouterr().err == "seedfast: There is no metric called lost; did you mean loss?\n"


def test_a_metric_that_returns_no_numbers_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f(model): return 'good'\n")
    with pytest.raises(seedfast.UserError, match="must return numbers by name"):
        seedfast.load(run).evaluate(f"{path}:f")
