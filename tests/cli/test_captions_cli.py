"""The captioner's commands, as a newcomer types them."""

import json
from pathlib import Path

import pytest
from tests.helpers.processes import seedfast
from tests.helpers.runs import small_run, train_in


@pytest.fixture(scope="module")
def run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "captioner"
    train_in(folder, small_run("image-caption", story, steps=6))
    return folder


def test_pictures_are_captioned_from_the_run_and_from_its_export(run: Path, story: Path, tmp_path: Path) -> None:
    pictures = sorted(story.with_suffix(".captions").glob("*.png"))[:3]
    ours = seedfast("sample", run, "--at", "6", "--image", *pictures, "--attention", "--out", tmp_path / "out")
    assert ours.returncode == 0, ours.stderr
    assert all(str(picture) in ours.stdout for picture in pictures)
    assert (tmp_path / "out/attention-0002.png").is_file()
    made = seedfast("export", run, "--at", "6", "--out", tmp_path / "model")
    assert made.returncode == 0, made.stderr
    theirs = seedfast("sample", tmp_path / "model", "--image", *pictures)
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout.splitlines() == ours.stdout.splitlines()[: len(theirs.stdout.splitlines())]
    data = small_run("image-caption", story).data.path
    measured = seedfast("evaluate", tmp_path / "model", "--only", "loss", "--data", data, "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["nats_per_token"] > 0
    bad = seedfast("sample", run, "--image", tmp_path / "none.png")
    assert bad.returncode == 2
    assert "none.png" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_metrics_and_gallery(run: Path) -> None:
    answer = seedfast("captions", run, "--json", "--images", "5", "--decoding", "greedy")
    assert answer.returncode == 0, answer.stderr
    record = json.loads(answer.stdout)
    assert record["images"] == 5
    assert set(record["metrics"]) == {
        "exact_match", "cider", "rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "distinct_1", "distinct_2",
    }  # fmt: skip
    page = (run / "captions.html").read_text()
    assert page.count('<div class="card">') == 5
    assert "http" not in page


def test_captions_of_another_kind_of_run_are_refused(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "text", small_run("text-masked", story, steps=1))
    answer = seedfast("captions", tmp_path / "text")
    assert answer.returncode == 2
    assert "trains no captioner" in answer.stderr


@pytest.mark.parametrize("words", [("prepare", "coco"), ("prepare", "flickr30k", "nowhere.zip", "--out", "x")])
def test_what_cannot_be_prepared_is_said(words: tuple[str, ...]) -> None:
    answer = seedfast(*words)
    assert answer.returncode == 2
    assert answer.stderr.startswith("seedfast: ")
