"""The configuration of image data: invalid options, the cache, the fingerprint, assets."""

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
        ({"balance": "manual", "class_weights": (1.0, float("inf"))}, "must be positive numbers"),
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
