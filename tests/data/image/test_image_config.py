"""The configuration of image data: invalid options, the cache, the fingerprint, assets."""

import shutil
from pathlib import Path

import pytest
from tests.helpers.image_data import image_data, write_image

from seedfast.data.dataset import describe_difference
from seedfast.data.image.dataset import ImageAssets
from seedfast.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "neither a folder"),
        ({"path": "nowhere.py:images"}, r"nowhere.py, which does not exist"),
        ({"path": "glyphs", "image_field": "x"}, r"data.image_field \(x\) has no effect, because .*no columns"),
        ({"glyph_class": "face"}, r"data.glyph_class \(face\) has no effect without data.path glyphs"),
        ({"split_by": "face"}, r"data.split_by \(face\) has no effect without data.path glyphs"),
        ({"validation": 1.0}, r"data.validation must be in \[0, 1\), not 1.0"),
        ({"size": 2}, r"data.size must be in \[4, 4096\], not 2"),
        ({"size": 1_000_000}, r"data.size must be in \[4, 4096\], not 1000000"),
        ({"balance": "effective-number", "balance_beta": 1.0}, r"data.balance_beta must be in \[0, 1\), not 1.0"),
        ({"balance_beta": 0.5}, r"balance_beta \(0.5\) has no effect without data.balance effective-number"),
        ({"class_weights": (1.0,)}, r"class_weights \(\(1.0,\)\) has no effect without data.balance manual"),
        ({"balance": "manual"}, "data.balance manual needs data.class_weights"),
        ({"balance": "manual", "class_weights": (1.0,)}, "2 numbers, one for each class"),
        ({"balance": "manual", "class_weights": (1.0, -1.0)}, "class_weights must be positive, not -1.0"),
        ({"balance": "manual", "class_weights": (1.0, float("inf"))}, "must be positive, not inf"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_data(folder, **options).load()


def test_the_cache_is_used_and_the_fingerprint_names_what_changed(folder: Path, cache: Path) -> None:
    before = image_data(folder).load().fingerprint
    (prepared,) = [path for path in (cache / "images").iterdir() if path.is_dir()]
    stamp = (prepared / "pixels.bin").stat().st_mtime_ns
    assert image_data(folder).load().fingerprint == before
    assert (prepared / "pixels.bin").stat().st_mtime_ns == stamp
    write_image(folder / "cat/01.png", seed=99)
    after = image_data(folder).load().fingerprint
    assert describe_difference(before, after) == "changed: cat/01.png"


def test_assets_are_restored(folder: Path, tmp_path: Path) -> None:
    config = image_data(folder)
    assets = config.load().assets
    assets.save(tmp_path)
    assert config.restore(tmp_path) == assets
    with pytest.raises(UserError, match=r"images\.json"):
        ImageAssets.load(folder)


def test_copies_of_an_image_are_in_one_split_and_rare_classes_train(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / f"big/{number:02}.png", seed=number)
        shutil.copy(tmp_path / f"big/{number:02}.png", tmp_path / f"big/copy {number:02}.png")
    for number in range(6):
        write_image(tmp_path / f"rare {number}/one.png", seed=50 + number)
    corpus = image_data(tmp_path, validation=0.2).load()
    train, validation = (
        {split.batch([i])["pixels"].numpy().tobytes() for i in range(len(split))}
        for split in (corpus.train, corpus.validation)
    )
    assert (len(corpus.train), len(corpus.validation)) == (24, 6)
    assert not train & validation
    assert corpus.assets.counts == (18, *[1] * 6)


@pytest.mark.parametrize("count", [1, 4])
def test_without_validation_all_images_train_with_a_warning(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(count):
        write_image(tmp_path / f"{number}.png", seed=number)
    corpus = image_data(tmp_path, validation=0.5 if count == 1 else 0.0).load()
    assert (len(corpus.train), len(corpus.validation)) == (count, 0)
    assert corpus.validation.batch([])["pixels"].shape == (0, 1, 8, 8)
    why = "none of its images can validate" if count == 1 else "data.validation is 0"
    assert f"has no validation split, because {why}" in capsys.readouterr().err
