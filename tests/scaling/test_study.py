"""`seedfast study`: equal budgets, one law for each family, the same bits after a kill, refusals."""

import importlib
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import past, processes
from tests.helpers.cli import Run as Command

from seedfast import UserError, load, study
from seedfast.cli.train import parse_run
from seedfast.evaluate.held_out import HeldOut
from seedfast.families.text.mask_counts import MEASURED
from seedfast.scaling import front, table
from seedfast.scaling import plan as plans
from seedfast.scaling.plan import TooSmall, planned, rounded_up
from seedfast.scaling.request import Request
from seedfast.scaling.runs import known
from seedfast.scaling.worker import working

TINY = {"LADDER": (1, 2, 3, 4), "LENGTHS": (1, 2), "LEAST_STEPS": 3}
"""Small enough for seconds: six runs and a check, for each family."""
FLOPS = 2e9
"""Of each family."""
STEP_FLOPS = {
    "autoregressive": {size: 6.0 * 1024 * (3072 * size**3 + 8192 * size) for size in (1, *plans.LADDER)},
    "block": {size: 2.1 * 6 * 1024 * (3072 * size**3 + 8192 * size) for size in (1, *plans.LADDER)},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TINY.items():
            patch.setattr(plans, name, value)
        yield


@pytest.fixture(scope="module")
def story(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text in documents of ten lines, each of which begins with a number of its own."""
    path, lines = tmp_path_factory.mktemp("rows") / "story.jsonl", story.read_text().splitlines(keepends=True)
    texts = [f"{start}: {''.join(lines[start : start + 10])}" for start in range(0, len(lines), 10)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def words(text: Path, out: Path, *families: str, flops: float = FLOPS) -> list[str | Path]:
    budget = ("--flops", str(flops * len(families)), "--families", *families)
    return ["study", text, "--out", out, "--context", "16", "--check", *budget]


@pytest.fixture(scope="module")
def done(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of two families."""
    folder = tmp_path_factory.mktemp("study") / "done"
    from tests.helpers import cli

    assert cli.seedfast(*words(story, folder, "autoregressive", "masked"), "--jobs", "2") == 0
    return folder


def results(folder: Path, family: str) -> dict[str, Any]:
    """What was measured of each run, without times and the seal, which holds times."""
    found = {}
    for path in sorted((folder / "results").glob(f"{family}-*.json")):
        found[path.stem] = {key: value for key, value in json.loads(path.read_text()).items()
                            if key not in ("seconds", "seal")}  # fmt: skip
    return found


@pytest.mark.parametrize("check", [False, True])
def test_all_families_have_the_same_flops_in_each_cell(check: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "LADDER", tuple(STEP_FLOPS["block"]))
        patch.setattr(plans, "LEAST_STEPS", 50)
        patch.setattr(plans, "LENGTHS", (1, 2, 4))
        runs = planned(STEP_FLOPS, 3e13, tokens=1024, check=check)
    cells: dict[float, list[plans.PlannedRun]] = {}
    for run in runs:
        cells.setdefault(run.budget, []).append(run)
    assert len(cells) == 9 + check
    for budget, same in cells.items():
        assert {run.family for run in same} == {"autoregressive", "block"}
        for run in same:
            assert run.steps >= 50
            assert abs(run.flops - budget) <= run.step_flops / 2
            assert run.flops == pytest.approx(budget, rel=0.01)
        assert same[0].steps != same[1].steps, "equal steps would be other budgets"
    for family in STEP_FLOPS:
        assert sum(run.flops for run in runs if run.family == family) == pytest.approx(3e13, rel=0.01)
    largest = max(run.budget for run in runs if run.in_fit)
    assert [run.budget for run in runs if not run.in_fit] == [pytest.approx(4 * largest)] * 2 * check


def test_a_budget_that_is_too_small_names_the_least_one() -> None:
    with pytest.raises(TooSmall) as caught:
        planned(STEP_FLOPS, 1e6, tokens=1024, check=False)
    assert planned(STEP_FLOPS, caught.value.flops * 1.001, tokens=1024, check=False)
    with pytest.raises(TooSmall):
        planned(STEP_FLOPS, caught.value.flops * 0.999, tokens=1024, check=False)


@given(number=st.floats(1, 1e30))
def test_the_least_budget_is_rounded_up(number: float) -> None:
    assert number <= float(rounded_up(number)) <= 1.11 * number


def test_a_budget_that_nobody_chose_grows_to_the_least_one(
    story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(data=(str(story),), families=("autoregressive",), minutes=1e-3, context=16)
    with working(request, story.parent / "new", jobs=1) as workers:
        with pytest.raises(UserError, match="give at least --minutes"):
            plans.make(request, workers)
        assert min(run.steps for run in plans.make(request, workers, may_grow=True).runs) == TINY["LEAST_STEPS"]
    assert "this study has --minutes" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(front, "run_study", lambda *_, may_grow, **__: asked.append(may_grow))
    for budget in ({}, {"minutes": 15.0}, {"flops": 1e9}):
        study(story, "new", **budget)
    assert asked == [True, False, False]


def test_a_finished_study_is_judged_again_without_training(done: Path, story: Path, seedfast: Command) -> None:
    command = words(story, done, "autoregressive", "masked")
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*.safetensors")}
    status, out, error = seedfast(*command, "--json")
    assert status == 0, error
    assert {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*.safetensors")} == before
    record = json.loads(out)
    assert sum(each["probability"] for each in record["families"]) == pytest.approx(1)
    assert len(record["runs"]) == 14
    by_name = {each["name"]: each for each in record["runs"]}
    for family in record["families"]:
        name = family["check"]["name"]
        assert name == f"{family['family']}-4-check"
        assert not by_name[name]["in_fit"]
        assert family["check"]["measured"] == by_name[name]["value"]
        assert family["check"]["error"] == pytest.approx(family["check"]["value"] / by_name[name]["value"] - 1)
        assert family["prediction"]["low"] <= family["prediction"]["high"]
    bounds = {each["family"]: each["is_bound"] for each in record["families"]}
    assert bounds == {"autoregressive": False, "masked": True}
    assert record["misses"][record["form"]] == min(record["misses"].values())
    errors = [family["check"]["error"] for family in record["families"]]
    assert record["expected_error"] == pytest.approx((sum(error**2 for error in errors) / 2) ** 0.5)
    assert {family["size"] for family in record["families"]} <= {1, 2, 3, 4}, "sizes that were trained"
    assert all((each["deployed"] is not None) == each["is_bound"] for each in record["families"])
    larger = json.loads(seedfast(*command, "--json", "--for-flops", "1e12")[1])
    assert larger["flops"] == 1e12
    assert larger["families"][0]["prediction"]["value"] < record["families"][0]["prediction"]["value"]


def test_a_result_knows_the_documents_of_its_windows(done: Path, story: Path, tmp_path: Path) -> None:
    """So the bands draw whole documents, as the error of each run does. A result of an earlier version has none, and
    counts as one text."""
    request = Request(
        data=(str(story),), families=("autoregressive", "masked"), flops=2 * FLOPS, check=True, context=16
    )
    plan = plans.read(done, request)
    assert plan is not None
    planned_run = plan.runs[0]
    found = known(done, planned_run)
    assert found is not None
    cut = HeldOut(load(done / "runs" / found.name).corpus).cut
    assert cut.documents_E is not None
    assert len(set(cut.documents_E.tolist())) > 1
    assert found.cut.documents_E is not None
    assert np.array_equal(found.cut.documents_E, cut.documents_E)
    assert found.cut.identity == cut.identity
    stored = json.loads((done / "results" / f"{found.name}.json").read_text())
    (tmp_path / "results").mkdir()
    former = {**{key: value for key, value in stored.items() if key != "documents"}, "is_ordered": True}
    (tmp_path / "results" / f"{found.name}.json").write_text(json.dumps(former))
    before = known(tmp_path, planned_run)
    assert before is not None
    assert before == replace(found, documents=(0,) * len(found.sizes))


def test_a_run_of_the_study_is_an_ordinary_run(done: Path, seedfast: Command) -> None:
    name = next(path.stem for path in sorted((done / "results").glob("masked-*.json")))
    stored = json.loads((done / "results" / f"{name}.json").read_text())
    status, out, error = seedfast(
        "evaluate", done / "runs" / name, "--at", "newest", "--only", "loss", "--draws", "2", "--json"
    )
    assert status == 0, error
    assert json.loads(out)["bits_per_byte"] == pytest.approx(stored["value"])


def test_the_tables_fit_a_terminal_and_name_bounds(done: Path, story: Path, seedfast: Command) -> None:
    command = words(story, done, "autoregressive", "masked")
    status, out, error = seedfast(*command)
    assert status == 0, error
    *lines, last = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert last.startswith("seedfast train text-")
    shown = " ".join(out.split())
    for part in ("Recommended for", "bounds from above", "off by", "deployed", "best in", "≤ ", "Expected error: ",
                 "Warning: these predictions are not accurate to 1%"):  # fmt: skip
        assert part in shown
    page = (done / "study.html").read_text()
    assert page.count("data:image/png") == 2
    assert "http" not in page.replace("http-equiv", "")
    table = [line for line in seedfast(*command, "--markdown")[1].splitlines() if line.startswith("| masked-")]
    assert len(table) >= 7


def test_the_printed_command_trains_a_run_like_those_of_the_study(done: Path, story: Path) -> None:
    found = study(story, done, families=("autoregressive", "masked"), flops=2 * FLOPS, check=True, context=16)
    *_, masked = found.families
    for family in (*found.families, replace(masked, name="block")):
        alone = replace(found, families=(family,))
        best = alone.recommended
        _, _, recipe, *flags = table.command(alone).split()
        asked = parse_run(recipe, flags).run.located()
        known = found.plan.request.run(best.name, best.size, best.steps, found.plan.validation)
        for part in (
            "recipe", "data", "model", "objective", "optimizer", "schedule", "ema", "batch_size", "steps", "seed"
        ):  # fmt: skip
            assert getattr(asked, part) == getattr(known, part)
        assert getattr(known.objective, "estimator", MEASURED) == MEASURED


def test_the_recommended_family_has_the_best_prediction_not_the_widest_band(done: Path, story: Path) -> None:
    found = study(story, done, families=("autoregressive", "masked"), flops=2 * FLOPS, check=True, context=16)
    first, second = found.families
    assert first.best.value < second.best.value
    unsure = replace(found, families=(replace(first, probability=0.3), replace(second, probability=0.7)))
    assert unsure.recommended.name == first.name
    assert f"{second.name.capitalize()} is the best in more of them (70%)" in table.verdict(unsure)
    assert "is the best in more of them" not in table.verdict(replace(found, families=(first,)))


def test_a_note_says_that_a_run_reads_its_text_more_than_once(done: Path, story: Path) -> None:
    found = study(story, done, families=("autoregressive", "masked"), flops=2 * FLOPS, check=True, context=16)
    best = found.recommended
    once = max(run.tokens / run.epochs for run in found.runs)
    for epochs, is_said in ((0.9, False), (3.0, True)):
        longer = replace(best, best=replace(best.best, tokens=epochs * once))
        notes = " ".join(table.notes(replace(found, families=(longer,))))
        assert ("reads its training text 3.0 times" in notes) == is_said


def test_the_bench_states_how_far_off_a_prediction_is(done: Path, story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "bench")
    bench = importlib.import_module("study")
    families = ("autoregressive", "masked")
    for family in study(story, done, families=families, flops=2 * FLOPS, check=True, context=16).families:
        off = abs(family.check.error or 0.0)
        assert bench.row("story", family).endswith(f"| {'yes' if off <= 0.01 else 'no'} |")
    assert bench.options().parse_args(["a.txt"]).minutes == 30


def test_an_interrupted_and_killed_study_continues_with_the_same_bits(
    done: Path, story: Path, tmp_path: Path, seedfast: Command
) -> None:
    folder = tmp_path / "killed"
    command = [*words(story, folder, "autoregressive"), "--jobs", "1"]
    code = "import sys\nfrom seedfast.scaling import plan\n"
    code += "".join(f"plan.{name} = {value!r}\n" for name, value in TINY.items())
    code += "from seedfast.cli import main\nmain(sys.argv[1:])\n"
    interrupted = processes.python(code, *command)
    interrupted.wait_for(lambda: results(folder, "autoregressive"))
    os.kill(interrupted.pid, signal.SIGINT)
    ended = interrupted.finish()
    assert ended.returncode == 130
    assert f"the same command continues the study in {folder}" in ended.stderr
    killed = processes.python(code, *command)
    killed.wait_for(lambda: len(results(folder, "autoregressive")) >= 3)
    killed.process.kill()
    killed.finish()
    assert len(results(folder, "autoregressive")) < 7
    status, _, error = seedfast(*command)
    assert status == 0, error
    assert results(folder, "autoregressive") == results(done, "autoregressive")
    assert len(results(folder, "autoregressive")) == 7


def test_the_front_door_refuses_what_the_command_line_cannot_be_given(story: Path, tmp_path: Path) -> None:
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"families": ("masked", "marked")}, "families has 'marked'"),
        ({"data": ()}, "Name the text to study"),
        ({"flops": math.nan}, "flops must be positive, not nan"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ]
    for changes, message in mistakes:
        with pytest.raises(UserError, match=message):
            study(**{"data": story, "out": tmp_path / "new", **changes})
    assert not (tmp_path / "new").exists()


def test_mistakes_are_refused_in_one_sentence(done: Path, story: Path, tmp_path: Path, seedfast: Command) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a few words\n" * 3)
    same = words(story, done, "autoregressive", "masked")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "study.json").write_text("{")
    outside = tmp_path / "outside"
    outside.mkdir()
    plan = json.loads((done / "study.json").read_text())
    plan["runs"][0]["name"] = "../../stray"
    (outside / "study.json").write_text(json.dumps(plan))
    other_data = shutil.copytree(done, tmp_path / "other-data")
    (other_data / "results" / "masked-1-x1.json").unlink()
    plan = json.loads((done / "study.json").read_text())
    plan["data"]["digest"] = "0" * 64
    (other_data / "study.json").write_text(json.dumps(plan))
    for command, message in (
        (words(story, outside, "autoregressive", "masked"), "is no name of a run"),
        (words(story, other_data, "autoregressive", "masked"), "has changed (the same files, prepared differently)"),
        (words(story, tmp_path / "new", "masked", flops=math.inf), "flops must be positive, not inf"),
        (words(story, tmp_path / "new", "masked", flops=1e300), "give less than 1e+09"),
        ([*same, "--scale", "inf"], "scale must be positive, not inf"),
        ([*same, "--scale", "1e308"], "inf FLOPs are more than 1e+09 steps of"),
        ([*same, "--jobs", "0"], "jobs must be at least 1"),
        ([*same, "--seed", "2"], "seed = 1, and 2 is asked for"),
        (words(short, done, "autoregressive", "masked"), "holds a study with data ="),
        (words(story, other, "masked"), "holds no study"),
        (words(story, broken, "masked"), "cannot be read as the plan"),
        (words(story, tmp_path / "new", "masked", flops=1e3), "give at least --flops"),
        ([*same, "--minutes", "3"], "minutes and flops are two forms"),
        ([*same, "--scale", "2", "--for-flops", "1e9"], "for_flops and scale are two forms"),
        ([*same, "--json", "--markdown"], "--json and --markdown are two forms"),
        ([*same, "--for-flops", "1e3"], "give at least --for-flops"),
        (words(story, tmp_path / "new", "masked", "masked"), "must name each family once"),
        (words(short, tmp_path / "new", "masked"), "too short to have any"),
    ):
        status, _, error = seedfast(*command)
        assert status == 2, command
        assert message in error
        assert len([line for line in error.strip().splitlines() if line.startswith("seedfast: ")]) == 1
    assert not (tmp_path / "new").exists()


def test_code_that_a_run_of_the_study_names_does_not_run(
    done: Path, story: Path, tmp_path: Path, seedfast: Command
) -> None:
    """The folder of a study may be a stranger's, whose runs name a data source of their own."""
    folder, mark = tmp_path / "study", tmp_path / "executed"
    shutil.copytree(done, folder)
    shutil.rmtree(folder / "deployed", ignore_errors=True)
    own = tmp_path / "own.py"
    own.write_text(f"open({str(mark)!r}, 'w')\ndef documents(): ...\n")
    for run in folder.glob("runs/masked-*/checkpoints/*/run.yaml"):
        stored = run.read_text()
        run.write_text(stored.replace(str(story), f"{own}:documents"))
        assert run.read_text() != stored
        past.reseal(run.parents[2])
    status, _, error = seedfast(*words(story, folder, "autoregressive", "masked"))
    assert status == 2, error
    assert f"names the Python file {own}" in error
    assert not mark.exists()
