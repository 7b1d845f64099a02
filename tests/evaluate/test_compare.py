"""Runs in one table: the numbers of `seedfast evaluate`, paired differences, and a refusal of other data."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.cli import Run as Command
from tests.helpers.runs import small_run, train_in

import seedfast as library
from seedfast.data import notes
from seedfast.evaluate.comparison import short_names
from seedfast.loop.config import Run

FAST, BOUNDS = ("--windows", "8"), ("--only", "loss", "bracket", "deployed")


def with_data(run: Run, **changes: Any) -> Run:
    return replace(run, data=replace(run.data, **changes))


@pytest.fixture(scope="module")
def runs(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a few steps: of other families, tokenizers, contexts and splits, and of images."""
    home = tmp_path_factory.mktemp("compared")

    def short(recipe: str, **changes: Any) -> Run:
        return small_run(recipe, story, **{"steps": 6, "eval_every": 0, "save_every": 6, **changes})

    made = {
        "ar": short("text-autoregressive"),
        "longer": short("text-autoregressive", steps=12, save_every=12),
        "bytes": with_data(short("text-autoregressive"), tokenizer="bytes", context=24),
        "masked": short("text-masked"),
        "embedding": short("text-embedding"),
        "other": with_data(short("text-autoregressive"), validation=0.2),
        "images": short("image-diffusion"),
        "more-images": short("image-diffusion", steps=9, save_every=9),
        "captions": short("image-caption"),
        "more-captions": short("image-caption", steps=9, save_every=9),
    }
    for name, run in made.items():
        train_in(home / name, run)
    return home


def compared(seedfast: Command, *words: Any) -> dict[str, Any]:
    status, out, error = seedfast("compare", *words, "--json")
    assert status == 0, error
    record: dict[str, Any] = json.loads(out)
    return record | {"runs": {each["run"]: each for each in record["runs"]}}


def test_the_numbers_are_those_of_evaluate(runs: Path, seedfast: Command) -> None:
    found = compared(seedfast, runs / "ar", runs / "longer", runs / "masked", runs / "embedding", *FAST, *BOUNDS)
    assert found["best"] == "longer"
    assert found["unit"] == "bits per byte"
    for name in ("ar", "masked", "embedding"):
        row = found["runs"][name]
        alone = json.loads(seedfast("evaluate", runs / name, "--json", *(FAST if name == "masked" else ()))[1])
        assert row["value"]["value"] == pytest.approx(alone["bits_per_byte"])
        assert row["value"]["standard_error"] == pytest.approx(alone["bits_per_byte_standard_error"])
        assert row["value"]["is_bound"] == alone["is_bound"]
        if name == "masked":
            assert row["lower"]["value"] == pytest.approx(alone["lower"])
            assert row["deployed"]["value"] == pytest.approx(alone["deployed"])
    assert found["runs"]["ar"]["deployed"] == found["runs"]["ar"]["value"], "it is exact already"
    assert found["runs"]["embedding"]["deployed"] is None
    assert found["runs"]["longer"]["difference"] is None


def test_a_difference_on_the_same_windows_is_surer_than_the_values(runs: Path, seedfast: Command) -> None:
    found = compared(seedfast, runs / "ar", runs / "longer", runs / "bytes", "--only", "loss")["runs"]
    best = found["longer"]["value"]
    for name in ("ar", "bytes"):
        own, difference = found[name]["value"], found[name]["difference"]
        assert difference["parts"] == "blocks"
        assert difference["value"] == pytest.approx(own["value"] - best["value"], abs=1e-9)
        assert 0 < difference["standard_error"] < math.hypot(own["standard_error"], best["standard_error"])


def test_the_effort_is_that_of_the_journal(runs: Path, seedfast: Command) -> None:
    found = compared(seedfast, runs / "ar", runs / "longer", "--only", "loss")["runs"]
    effort, twice = found["ar"]["effort"], found["longer"]["effort"]
    journal = library.journal(runs / "ar")
    network = library.load(runs / "ar").network
    size = sum(each.numel() for each in network.parameters())
    assert effort["parameters"] == size > effort["without_embeddings"] > 0
    assert effort["seen"] == 6 * 6 * 16
    assert effort["epochs"] == pytest.approx(twice["epochs"] / 2, rel=1e-2)
    assert effort["flops"] == pytest.approx(twice["flops"] / 2)
    tokens, body = effort["seen"], effort["without_embeddings"]
    assert 6 * body * tokens < effort["flops"] < 24 * size * tokens
    assert effort["seconds"] == pytest.approx(float(np.nansum(journal["training/time/seconds"])))


def test_other_validation_bytes_are_refused_with_how_they_differ(runs: Path, seedfast: Command) -> None:
    status, _, error = seedfast("compare", runs / "ar", runs / "other")
    assert status == 2
    assert len(error.strip().splitlines()) == 1
    for part in ("ar and other are validated on different data", "bytes in 1 document (sha256", "at byte 0",
                 "data.validation is 0.1 and 0.2"):  # fmt: skip
        assert part in error
    status, _, error = seedfast("compare", runs / "ar", runs / "images")
    assert status == 2
    assert "ar is a model of texts and images of images" in error


def test_what_was_measured_is_not_measured_again(runs: Path, seedfast: Command) -> None:
    words = ("compare", runs / "ar", runs / "masked", "--windows", "4", "--only", "loss", "deployed")
    first, second = seedfast(*words), seedfast(*words)
    assert first[1] == second[1]
    assert "masked: deployed" in first[2]
    assert not second[2]
    third = seedfast("compare", runs / "ar", runs / "masked", "--windows", "5", "--only", "loss", "deployed")
    assert "masked: deployed" in third[2]
    assert "masked: loss" not in third[2], "its number does not depend on the windows"


def test_another_code_measures_again(runs: Path, seedfast: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("compare", runs / "ar", runs / "longer", "--only", "loss")
    seedfast(*words)
    assert not seedfast(*words)[2]
    monkeypatch.setattr(notes, "code_digest", lambda: "of changed code")
    assert "ar: loss" in seedfast(*words)[2]


def test_the_table_fits_a_narrow_terminal(runs: Path, tmp_path: Path, seedfast: Command) -> None:
    names = ("ar", "bytes", "masked", "embedding")
    page = tmp_path / "table.html"
    words = ("compare", *(runs / name for name in names), *FAST, "--judge", runs / "longer", "--samples", "4")
    status, out, error = seedfast(*words, "--temperatures", "0.7", "1", "--html", page)
    assert status == 0, error
    assert max(map(len, out.splitlines())) <= 80
    for part in ("bits per byte", "lower bound", "deployed", "no embed.", "FLOPs", "frontier area", "sha256", "≤ "):
        assert part in out
    assert "bytes has no frontier by this judge: The character" in " ".join(out.split())
    assert sum(line.startswith("masked ") for line in out.splitlines()) == 4, "one block below the other"
    assert page.read_text().count("<table") == 1
    assert page.read_text().count("data:image/png") == 2
    markdown = seedfast(*words, "--temperatures", "0.7", "1", "--markdown")[1].splitlines()
    table = [line for line in markdown if line.startswith("|")]
    assert len(table) == 2 + len(names)
    assert len({line.count("|") for line in table}) == 1


def test_the_judge_itself_has_no_frontier(runs: Path, seedfast: Command) -> None:
    words = (runs / "ar", runs / "longer", "--judge", runs / "ar", "--samples", "2", "--temperatures", "1")
    found = compared(seedfast, *words, "--only", "frontier")["runs"]
    assert "frontier" in found["longer"]["metrics"]
    assert "frontier" not in found["ar"]["metrics"]
    assert "ar is the judge itself" in " ".join(seedfast("compare", *words, "--only", "frontier")[1].split())


def test_images_and_captions_have_columns_of_their_own(runs: Path, seedfast: Command) -> None:
    metrics = ("--only", "bits_per_dimension", "speed")
    found = compared(seedfast, runs / "images", runs / "more-images", *metrics)
    assert found["unit"] == "bits per dimension"
    rates = found["runs"]["images"]["metrics"]["speed"]["rates"]
    assert [each["evaluations"] for each in rates] == [50]
    assert rates[0]["images_per_second"] > 0
    worse = next(row for row in found["runs"].values() if row["difference"])
    assert worse["difference"]["parts"] == "windows"
    status, out, _ = seedfast("compare", runs / "images", runs / "more-images", "--samples", "24")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for part in ("bits per dimension", "Fréchet distance", "noise floor", "of 24 generated images to", "best"):
        assert part in " ".join(out.split())
    captions = compared(seedfast, runs / "captions", runs / "more-captions", "--only", "loss", "captions")
    for row in captions["runs"].values():
        assert row["value"]["value"] > 0
        assert "cider" in row["metrics"]["captions"]["metrics"]
    out = seedfast("compare", runs / "captions", runs / "more-captions", "--only", "loss", "captions")[1]
    assert "CIDEr-D" in out


def test_mistakes_are_refused_in_one_sentence(runs: Path, tmp_path: Path, seedfast: Command) -> None:
    ar, masked = runs / "ar", runs / "masked"
    for words, message in (
        ((ar,), "needs two runs at least"),
        ((ar, ar), "named twice"),
        ((ar, tmp_path / "none"), "There is no folder"),
        ((ar, masked, "--only", "perplexity"), "no metric called perplexity"),
        ((ar, runs / "longer", "--only", "deployed"), "fits none of these runs"),
        ((ar, masked, "--only", "frontier"), "name a judge with --judge"),
        ((ar, masked, "--samples", "4"), "no effect without --judge"),
        ((ar, masked, "--temperatures", "1"), "no effect without --judge"),
        ((runs / "images", runs / "more-images", "--judge", ar), "which no judge scores"),
        ((ar, masked, "--json", "--markdown"), "give one of them"),
        ((ar, masked, "--windows", "1"), "windows must be at least 2"),
        ((ar, masked, "--html", tmp_path), "cannot be written: it is a folder"),
        ((ar, masked, "--judge", masked), "must be an autoregressive"),
    ):
        status, _, error = seedfast("compare", *words)
        assert status == 2, words
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_runs_are_named_by_what_tells_them_apart() -> None:
    assert short_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert short_names([Path("/a/run"), Path("/b/run"), Path("/b/z")]) == ["a/run", "b/run", "b/z"]
