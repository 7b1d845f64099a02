"""Caption metrics with their standard errors, the nearest-image baseline, and the evaluator of a run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.runs import small_run, train_in

from seedfast import recipes
from seedfast.data.caption.dataset import CaptionDataset, MappedImages
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.evaluate.caption_quality import CaptionQuality, measure, nearest_captions
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.metrics import BleuCounts, words
from seedfast.run_folder.choice import find

CAPTIONS = ["a dog runs over the grass", "a cat sleeps", "two people sit on a bench", "the sea"]
REFERENCES = [
    ["a dog runs over the grass", "a dog"],
    ["one cat is asleep"],
    ["people sit on a bench"],
    ["the blue sea"],
]


def test_means_have_standard_errors() -> None:
    found = measure(CAPTIONS, REFERENCES)
    assert found["exact_match"].value == 0.25
    assert found["exact_match"].standard_error == pytest.approx(0.25)  # √(¼ · ¾ / 3)
    assert math.isnan(found["distinct_1"].standard_error)
    assert math.isnan(measure(CAPTIONS[:1], REFERENCES[:1])["exact_match"].standard_error)


@pytest.mark.parametrize("count", [1, 3], ids=["one image", "equal captions"])
def test_cider_has_no_value_where_no_word_tells_images_apart(count: int) -> None:
    found = measure(CAPTIONS[:1] * count, REFERENCES[:1] * count)
    assert math.isnan(found["cider"].value)
    assert found["cider"].record() == {"value": None, "standard_error": None}
    assert str(found["cider"]) == "no value"
    assert found["rouge_l"].value == 1
    assert measure(CAPTIONS[:2], REFERENCES[:2])["cider"].value > 0


def test_the_standard_error_of_bleu_is_the_jackknifes() -> None:
    found = measure(CAPTIONS, REFERENCES)
    counts = [BleuCounts.of(words(a), [words(r) for r in b]) for a, b in zip(CAPTIONS, REFERENCES, strict=True)]
    rest = [sum((c for j, c in enumerate(counts) if j != i and j != k), counts[k]) for i, k in enumerate([1, 0, 0, 0])]
    without = np.array([each.scores()[0] for each in rest])
    assert found["bleu_1"].standard_error == pytest.approx(math.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum()))


def test_the_baseline_is_the_nearest_training_image() -> None:
    pixels_MCSS = np.random.default_rng(0).integers(0, 256, (40, 1, 3, 3), dtype=np.uint8)
    images = MappedImages(pixels_MCSS)

    def split(rows: range) -> CaptionDataset:
        return CaptionDataset(
            images=images,
            rows_N=np.array(rows),
            names=[""] * len(rows),
            captions=[[str(row)] for row in rows],
            tokens=[[np.array([1], np.uint32)]] * len(rows),
            padding=0,
        )

    flat = pixels_MCSS.reshape(40, -1).astype(np.int64)
    expected = [str(((flat[:30] - flat[30 + i]) ** 2).sum(axis=1).argmin()) for i in range(10)]
    assert nearest_captions(split(range(30)), split(range(30, 40)), list(range(10)), chunk=4) == expected


def opened(folder: Path) -> Trained:
    checkpoint = find(folder, at="newest")
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


@pytest.fixture(scope="module")
def run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("quality") / "run"
    # Images and captions of its own: a test changes them.
    text = folder.parent / "story.txt"
    text.write_text(story.read_text())
    train_in(folder, small_run("image-caption", text, steps=2))
    return folder


def test_a_run_is_captioned_and_measured(run: Path, tmp_path: Path) -> None:
    model = opened(run)
    metric = CaptionQuality(images=5, decoding="greedy")
    assert metric.fits(model) is None
    report = metric(model)
    record = report.record()
    assert json.loads(json.dumps(record)) == record, "plain JSON"
    assert (record["step"], record["weights"], record["images"]) == (2, "ema", 5)
    references = report.samples.images.references
    captions = [captions[0].text for captions in report.samples.captions]
    assert record["metrics"]["cider"]["model"]["value"] == measure(captions, references)["cider"].value
    assert record["metrics"]["distinct_1"]["nearest_picture"]["standard_error"] is None
    assert len(report.table()) == 2 + len(record["metrics"]), "a head, the decoding, and a line each"
    single = CaptionQuality(images=1, decoding="greedy")(model)
    assert single.record()["metrics"]["cider"]["model"]["value"] is None
    assert "needs more than one image" in single.table()[-1]
    assert report.write_gallery(tmp_path).read_text().count('<div class="card">') == 5


def test_a_run_of_another_kind_does_not_fit(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "text", small_run("text-masked", story, steps=1))
    assert "trains no captioner" in str(CaptionQuality().fits(opened(tmp_path / "text")))


def test_a_run_whose_data_has_changed_is_refused(run: Path) -> None:
    """Otherwise a validation image could be one that the run was trained on."""
    file = run.parent / "story.captions/captions.json"
    before = file.read_text()
    file.write_text(json.dumps({name: ["another caption"] for name in json.loads(before)}))
    try:
        with pytest.raises(UserError, match="not what this run was trained on"):
            CaptionQuality(images=3)(opened(run))
    finally:
        file.write_text(before)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(UserError, match=r"beams \(3\) has no effect without decoding beam"):
        CaptionQuality(decoding="greedy", beams=3)
    with pytest.raises(UserError, match="images must be at least 1, not 0"):
        CaptionQuality(images=0)
