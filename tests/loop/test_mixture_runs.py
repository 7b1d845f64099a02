"""Training on a mixture: each source's validation apart, in every place; resumed at any step to the same bits."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.runs import small_run, train_in, train_until

import seedfast
from seedfast.data.text.config import TextData
from seedfast.errors import UserError
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.report import history, page
from seedfast.run_folder import journal

Cli = Callable[..., tuple[int, str, str]]
MIXTURE = "sources: {story: {path: story.txt, weight: 2}, code: {path: code.txt, weight: {0: 0, 4: 1, 20: 4}}}"


@pytest.fixture(scope="module")
def folder(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "story.txt").write_text(story.read_text())
    (folder / "code.txt").write_text("".join(f"def f{n}(x): return x * {n * 7 % 13}\n" for n in range(150)))
    (folder / "mixture.yaml").write_text(MIXTURE)
    return folder


def mixed_run(folder: Path, recipe: str = "text-masked", **changes: Any) -> Run:
    data = TextData(path=str(folder / "mixture.yaml"), tokenizer="characters", context=16)
    return small_run(recipe, folder / "story.txt", data=data, **changes)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    train_in(folder / "run", mixed_run(folder))
    return folder / "run"


def scores(run_folder: Path) -> list[dict[str, Any]]:
    return [score for entry in journal.read(run_folder) for score in entry.get("validation", {}).values()]


def lines(run_folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "time"} for entry in journal.read(run_folder)]


def test_the_journal_has_the_score_of_each_source(trained: Path) -> None:
    assert scores(trained)
    for score in scores(trained):
        sources = score["sources"]
        assert list(sources) == ["story", "code"]
        assert sum(each["examples"] for each in sources.values()) == score["examples"]
        assert sum(each["weight"] for each in sources.values()) == score["weight"]
        total = sum(each["loss"] * each["weight"] for each in sources.values())
        assert total / score["weight"] == pytest.approx(score["loss"], rel=1e-12)
        assert all(each["standard_error"] > 0 for each in sources.values())


def test_validation_examples_are_chosen_by_the_last_weights(trained: Path, folder: Path) -> None:
    (score, *_) = scores(trained)  # of 8 examples, a third is story's
    assert {name: each["examples"] for name, each in score["sources"].items()} == {"story": 3, "code": 5}


def test_trackers_and_tables_have_a_curve_for_each_source(trained: Path) -> None:
    table = seedfast.journal(trained)
    assert any(math.isfinite(value) for value in table["validation/raw/sources/code/loss"])
    found = history.read(trained)
    assert set(found.diagnostics) >= {"loss by source/story", "loss by source/code"}
    assert found.units.keys() == {"bits_per_byte"}


def test_the_report_has_a_row_for_each_source(trained: Path) -> None:
    assert re.search(r"<t[dh][^>]*>raw weights</t[dh]>\s*<t[dh][^>]*>code</t[dh]>", page.write(trained).read_text())


def test_the_line_and_the_introduction_name_each_source(folder: Path, tmp_path: Path, seedfast: Cli) -> None:
    words = [
        "--data",
        folder / "mixture.yaml",
        "--data.tokenizer",
        "characters",
        "--data.context",
        "16",
        "--steps",
        "4",
    ]
    words += ["--model.layers", "1", "--model.heads", "2", "--model.width", "16", "--batch-size", "6", "--no-report"]
    status, _, err = seedfast("train", "text-autoregressive", *words, "--sample-every", "0", "--out", tmp_path / "run")
    assert status == 0, err
    assert "source story: " in err
    assert "% of the run" in err
    (line,) = [line for line in err.splitlines() if "validation raw" in line]
    assert " story " in line.partition("perplexity")[2]
    assert " code " in line


def test_evaluate_scores_each_source_on_all_of_its_validation(trained: Path, seedfast: Cli) -> None:
    status, out, err = seedfast("evaluate", trained, "--json")
    assert status == 0, err
    record = json.loads(out)
    assert sum(each["examples"] for each in record["sources"].values()) == record["examples"] > 8
    status, out, _ = seedfast("evaluate", trained)
    assert any(line.startswith("sources.code.loss") for line in out.splitlines())


def test_a_run_that_is_stopped_anywhere_continues_to_the_same_bits(trained: Path, folder: Path, tmp_path: Path) -> None:
    run = mixed_run(folder)
    for stop in (1, 5, 13, 19):
        with open_session(run, tmp_path) as opened:
            train_until(opened, stop)
    train_in(tmp_path, run)
    assert lines(tmp_path) == lines(trained)


def test_threads_change_no_bit(trained: Path, folder: Path, tmp_path: Path) -> None:
    train_in(tmp_path, mixed_run(folder, workers=3))
    assert lines(tmp_path) == lines(trained)


def test_other_weights_are_another_run(folder: Path, tmp_path: Path) -> None:
    for name in ("story.txt", "code.txt", "mixture.yaml"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    run = mixed_run(tmp_path, steps=2)
    train_in(tmp_path / "run", run)
    (tmp_path / "mixture.yaml").write_text(MIXTURE.replace("weight: 2", "weight: 3"))
    with pytest.raises(UserError, match=r"The data is not what .* was trained on \(changed: mixture\.yaml\)"):
        train_in(tmp_path / "run", replace(run, steps=4))
    train_in(tmp_path / "run", replace(run, steps=4), allow_change=("data",))


def test_a_single_source_is_no_mixture_to_the_journal(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path, small_run("text-autoregressive", story, steps=6))
    assert all("sources" not in score for score in scores(tmp_path))


def test_code_that_a_mixture_names_runs_with_trust(folder: Path, tmp_path: Path, seedfast: Cli) -> None:
    (tmp_path / "own.py").write_text("def f():\n    for n in range(200): yield f'document {n} of mine'\n")
    (tmp_path / "mixture.yaml").write_text("sources: {own: {path: own.py:f}}")
    words = [
        "text-autoregressive",
        "--data",
        tmp_path / "mixture.yaml",
        "--data.tokenizer",
        "characters",
        "--steps",
        "1",
    ]
    words += ["--data.context", "16", "--model.layers", "1", "--model.heads", "2", "--model.width", "16"]
    status, _, err = seedfast("train", *words, "--sample-every", "0", "--out", tmp_path / "run")
    assert status == 2
    assert "--trust" in err
    assert seedfast("train", *words, "--sample-every", "0", "--out", tmp_path / "run", "--trust")[0] == 0


def test_python_asks_for_the_same_trust(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f():\n    for n in range(200): yield f'document {n} of mine'\n")
    (tmp_path / "mixture.yaml").write_text("sources: {own: {path: own.py:f}}")
    run = replace(mixed_run(folder, steps=1), data=TextData(path=str(tmp_path / "mixture.yaml"), context=16))
    with pytest.raises(UserError, match=r"trust=True in Python"):
        seedfast.train(run, tmp_path / "run")
    assert seedfast.train(run, tmp_path / "run", trust=True).step == 1


@pytest.mark.parametrize("recipe", ["image-diffusion", "image-caption"])
def test_only_texts_are_mixed(recipe: str, folder: Path, tmp_path: Path) -> None:
    run = small_run(recipe, folder / "story.txt")
    run = replace(run, data=run.data.with_path(str(folder / "mixture.yaml")))
    with pytest.raises(UserError, match=rf"is a mixture, and only texts are mixed: name one source for {recipe}"):
        train_in(tmp_path / "run", run)
