"""Images of every kind become the same squares; what is broken is named; the split and the balance are keyed."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile

from seedfast.data.dataset import describe_difference
from seedfast.data.image import glyphs
from seedfast.data.image.balance import class_weights
from seedfast.data.image.config import ImageAssets, ImageCorpus, ImageData
from seedfast.data.image.sources import opened, pixels_of
from seedfast.data.sample_order import Order
from seedfast.errors import UserError


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    """A picture of arbitrary pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures of one class and four of another."""
    for number in range(16):
        picture(tmp_path / "in" / ("cat" if number % 4 else "dog") / f"{number:02}.png", seed=number)
    return tmp_path / "in"


def data(folder: Path, /, **options: object) -> ImageData:
    base = ImageData(path=str(folder), size=8, channels=1, validation=0.25)
    return replace(base, **options)  # type: ignore[arg-type]


def test_a_folder_has_a_class_for_each_sub_folder(folder: Path) -> None:
    corpus = data(folder).load()
    assert corpus.assets.classes == ("cat", "dog")
    assert len(corpus.train) + len(corpus.validation) == 16
    assert len(corpus.validation) == 4
    batch = corpus.train.batch([0, 1])
    assert batch["pixels"].dtype == torch.uint8
    assert batch["pixels"].shape == (2, 1, 8, 8)
    assert sum(corpus.assets.counts) == len(corpus.train)


def test_pixels_of_the_right_size_are_left_as_they_are(folder: Path) -> None:
    corpus = data(folder).load()
    found = {image.numpy().tobytes() for image in corpus.train.batch(list(range(len(corpus.train))))["pixels"]}
    stored = {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}
    assert found < stored


def test_a_folder_without_sub_folders_is_of_one_class(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png", seed=number)
    assert data(tmp_path / "in").load().assets.classes == ("picture",)


def test_what_is_no_picture_is_named_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat/broken.png").write_bytes((folder / "cat/01.png").read_bytes()[:60])
    (folder / "cat/noise.jpg").write_bytes(b"no picture at all")
    (folder / "dog/notes.txt").write_text("hello")
    picture(folder / "stray.png")
    corpus = data(folder).load()
    said = capsys.readouterr().err
    for name in (
        "cat/broken.png",
        "cat/noise.jpg",
        "dog/notes.txt (not a picture)",
        "stray.png (in no class's folder)",
    ):
        assert name in said
    assert len(corpus.skipped) == 4
    assert len(corpus.train) + len(corpus.validation) == 16


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "HSV"])
def test_every_mode_becomes_grey_or_coloured(mode: str) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    grey, colour = pixels_of(image, 8, 1), pixels_of(image, 8, 3)
    assert grey.shape == (1, 8, 8)
    assert colour.shape == (3, 8, 8)
    if mode not in ("1", "HSV"):
        assert np.abs(grey[0].astype(int) - values).max() <= 2, "the same light, not a stretched one"


@pytest.mark.parametrize(
    "broken", [RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError, EOFError]
)
def test_whatever_a_decoder_raises_names_the_picture(
    broken: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's decoders raise all of these on bytes that they did not expect."""
    (folder / "cat/odd.ppm").write_bytes(b"P6 8 8 255\n" + bytes(192))

    def load(image: PpmImageFile) -> None:
        raise broken("at byte 7")

    monkeypatch.setattr(PpmImageFile, "load", load)
    (skipped,) = data(folder).load().skipped
    assert skipped.startswith("cat/odd.ppm (")
    assert "at byte 7" in skipped


def test_a_class_that_is_a_link_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "wolf").symlink_to(folder / "dog")
    corpus = data(folder).load()
    assert corpus.skipped == ("wolf (link to a folder)",)
    assert corpus.assets.classes == ("cat", "dog")


def test_grey_of_16_bits_keeps_its_transparency_and_32_bits_are_no_grey(tmp_path: Path) -> None:
    values = np.full((8, 8), 1000, np.uint16)
    values[0] = 0
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=0)
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "whole.tiff")
    with opened(tmp_path / "clear.png") as image:
        grey = pixels_of(image, 8, 1)[0]
    assert (grey[0] == 255).all()
    assert (grey[1:] == 3).all()
    with opened(tmp_path / "whole.tiff") as image, pytest.raises(ValueError, match="32-bit pixels"):
        pixels_of(image, 8, 1)


def test_dark_pictures_stay_dark() -> None:
    assert pixels_of(Image.fromarray(np.full((8, 8), 300, np.uint16)), 8, 1).max() == 1
    assert pixels_of(Image.fromarray(np.full((8, 8), 3, np.uint8)), 8, 1).max() == 3


def test_transparent_pixels_are_white_and_pictures_upright() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert pixels_of(clear, 8, 3).min() == 255
    picture = Image.new("L", (8, 8))
    picture.putpixel((0, 0), 255)
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.info["exif"] = exif.tobytes()
    assert pixels_of(picture, 8, 1)[0, 7, 7] == 255


def test_the_middle_square_is_taken() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert pixels_of(Image.fromarray(wide), 8, 1).min() == 200


def test_a_list_says_what_validates(folder: Path) -> None:
    names = sorted(path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.png"))
    listed = folder.parent / "split.json"
    content = {
        "train": [{"image": name, "class": name.split("/")[1], "caption": f"a {name}"} for name in names[:-3]],
        "validation": {"dog": names[-3:]},
    }
    listed.write_text(json.dumps(content))
    corpus = ImageData(path=str(listed), size=8, channels=1).load()
    assert len(corpus.validation) == 3
    assert corpus.train.captions[0] == f"a {names[0]}"  # type: ignore[attr-defined]


def test_a_class_that_is_null_is_missing(folder: Path) -> None:
    names = sorted(path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.png"))
    entries = [{"image": name, "class": None, "caption": None} for name in names[:-3]]
    content = {"train": entries, "validation": [{"image": name} for name in names[-3:]]}
    (folder.parent / "split.json").write_text(json.dumps(content))
    corpus = ImageData(path=str(folder.parent / "split.json"), size=8, channels=1).load()
    assert corpus.assets.classes == ("picture",)
    assert corpus.train.captions[0] == Path(names[0]).stem  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON file"),
        ("[]", '"train" and "validation"'),
        ('{"test": []}', '"train" and "validation"'),
        ('{"train": [], "validation": [], "test": []}', "it has the keys train, validation, test"),
        ('{"train": ["a.png"], "validation": []}', 'with the key "image"'),
        ('{"train": [{"image": 3}], "validation": []}', 'with the key "image"'),
        ('{"train": {"cat": "a.png"}, "validation": []}', "map classes to lists"),
        ('{"train": [{"image": "a"}], "validation": [{"image": "a"}]}', "more than once"),
        ('{"train": [{"image": "a"}], "validation": [{"image": "./a"}]}', r"lists a again as \./a"),
        ('{"train": [{"image": "a\\u0000"}], "validation": []}', 'with the key "image"'),
        ('{"train": [{"image": "a"}], "validation": [{"image": "b"}]}', r"no usable images \(left out: a .*, b .*\)"),
    ],
)
def test_a_list_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        ImageData(path=str(tmp_path / "x.json"), size=8).load()


def test_a_data_set_of_the_hub_s_library(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = sorted(folder.rglob("*.png"))
    rows = datasets.Dataset.from_dict(
        {"picture": [str(path) for path in paths], "kind": [path.parent.name for path in paths]},
        features=datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dog", "cat"])}),
    )
    rows.save_to_disk(str(tmp_path / "hub"))
    options = {"size": 8, "channels": 1, "image_field": "picture", "label_field": "kind"}
    corpus = ImageData(path=f"hf:{tmp_path / 'hub'}", **options).load()  # type: ignore[arg-type]
    assert corpus.assets.classes == ("cat", "dog")
    assert len(corpus.train) + len(corpus.validation) == 16
    with pytest.raises(UserError, match='lacks the column "image"'):
        ImageData(path=f"hf:{tmp_path / 'hub'}", size=8).load()


def test_rows_without_picture_or_class_are_named_and_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(folder.rglob("*.png"))]
    kinds: dict[str, tuple[object, list[object]]] = {
        "numbers": (datasets.Value("int64"), [1, 2] * 7 + [1, None]),
        "named": (datasets.ClassLabel(names=["dog", "cat"]), [0, 1] * 7 + [0, -1]),
    }
    for name, (kind, labels) in kinds.items():
        features = datasets.Features({"image": datasets.Image(), "kind": kind})
        rows = datasets.Dataset.from_dict({"image": [None, *paths[1:]], "kind": labels}, features=features)
        rows.save_to_disk(str(tmp_path / name))
        corpus = ImageData(path=f"hf:{tmp_path / name}", size=8, channels=1, label_field="kind").load()
        assert corpus.skipped == ("row 0 (no picture)", "row 15 (no class)")
        assert "row 0 (no picture), row 15 (no class)" in capsys.readouterr().err
        assert len(corpus.assets.classes) == 2


def test_the_cache_is_used_and_the_fingerprint_names_what_changed(folder: Path, cache: Path) -> None:
    before = data(folder).load().fingerprint
    (prepared,) = [path for path in (cache / "images").iterdir() if path.is_dir()]
    stamp = (prepared / "pixels.bin").stat().st_mtime_ns
    assert data(folder).load().fingerprint == before
    assert (prepared / "pixels.bin").stat().st_mtime_ns == stamp
    picture(folder / "cat/01.png", seed=99)
    after = data(folder).load().fingerprint
    assert describe_difference(before, after) == "changed: cat/01.png"


def test_assets_come_back(folder: Path, tmp_path: Path) -> None:
    config = data(folder)
    assets = config.load().assets
    assets.save(tmp_path)
    assert config.restore(tmp_path) == assets
    with pytest.raises(UserError, match=r"images\.json"):
        ImageAssets.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "neither a folder"),
        ({"path": "glyphs", "image_field": "x"}, "no columns"),
        ({"label": "face"}, "only glyphs"),
        ({"validation": 1.0}, "no part of the data"),
        ({"size": 2}, "4 to 4096 pixels"),
        ({"size": 1_000_000}, "4 to 4096 pixels"),
        ({"balance": "effective-number", "beta": 1.0}, "must lie in"),
        ({"beta": 0.5}, "balance=effective-number"),
        ({"class_weights": (1.0,)}, "go together"),
        ({"balance": "manual", "class_weights": (1.0,)}, "2 numbers, one for each class"),
        ({"balance": "manual", "class_weights": (1.0, -1.0)}, "must be positive numbers"),
        ({"balance": "manual", "class_weights": (1.0, float("inf"))}, "must be positive numbers"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(folder, **options).load()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture"):
        data(tmp_path).load()


# ---- balance --------------------------------------------------------------------------------------------------


def test_class_weights_by_their_formulas() -> None:
    counts = (10, 30)
    assert class_weights(counts, None, beta=0.9, manual=()) == [1, 1]
    assert class_weights(counts, "inverse-frequency", beta=0.9, manual=()) == pytest.approx([1.5, 0.5])
    raw = [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**30)]
    expected = [2 * each / sum(raw) for each in raw]
    assert class_weights(counts, "effective-number", beta=0.9, manual=()) == pytest.approx(expected)
    assert class_weights(counts, "manual", beta=0.9, manual=(3, 1)) == pytest.approx([1.5, 0.5])


def test_balanced_order_draws_classes_equally_and_every_example_alike(folder: Path) -> None:
    corpus = data(folder, balance="inverse-frequency").load()
    order = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    ids = order.ids(0, 100 * len(corpus.train))
    labels = corpus.train.batch(ids)["labels"]  # type: ignore[union-attr]
    assert float(labels.double().mean()) == pytest.approx(0.5, abs=0.02)
    for label in (0, 1):
        drawn = Counter(i for i, of in zip(ids, labels.tolist(), strict=True) if of == label)
        assert max(drawn.values()) <= 1.2 * min(drawn.values())


def test_equal_shares_are_a_permutation_of_each_epoch() -> None:
    order = Order(size=37, seed=1, sampling_weights=torch.full((37,), 0.3, dtype=torch.float64))
    for epoch in range(3):
        assert sorted(order.ids(37 * epoch, 37 * (epoch + 1))) == list(range(37))


def test_shares_are_met_in_each_epoch_to_one_place() -> None:
    shares = torch.tensor([0.5, 1.0, 2.5, 7.0, 0.01, 3.0], dtype=torch.float64).repeat(10)
    order = Order(size=60, seed=3, sampling_weights=shares)
    for epoch in range(20):
        drawn = Counter(order.ids(60 * epoch, 60 * (epoch + 1)))
        for example, share in enumerate((shares * 60 / shares.sum()).tolist()):
            assert abs(drawn[example] - share) < 1


def test_balanced_order_is_indexed_like_any_other(folder: Path) -> None:
    corpus = data(folder, balance="effective-number").load()
    order = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    far = 10**12
    again = Order(size=len(corpus.train), seed=1, sampling_weights=corpus.sampling_weights)
    assert order.ids(far, far + 50)[20:30] == again.ids(far + 20, far + 30)


# ---- glyphs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the two smallest faces: the others take seconds."""
    few = {name: glyphs.FACES[name] for name in ("STIXGeneralItalic", "STIXGeneralBolIta")}
    monkeypatch.setattr(glyphs, "FACES", few)


def captions(corpus: ImageCorpus) -> tuple[list[str], list[str]]:
    return list(corpus.train.captions), list(corpus.validation.captions)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("two_faces")
def test_glyphs_have_names_faces_and_scripts() -> None:
    corpus = ImageData().load()
    train, held_out = captions(corpus)
    assert "greek small letter alpha, stix italic" in [*train, *held_out]
    assert len({*train, *held_out}) == len(train) + len(held_out) > 2000
    assert {"latin", "greek", "symbol"} <= set(corpus.assets.classes)
    assert corpus.assets.channels == 1
    pixels = corpus.train.batch(list(range(len(corpus.train))))["pixels"]
    assert bool(pixels.flatten(1).any(dim=1).all()), "no blank picture"


@pytest.mark.usefixtures("two_faces")
def test_glyphs_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = ImageData(size=8).load().fingerprint
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "another"))
    assert ImageData(size=8).load().fingerprint == first


@pytest.mark.usefixtures("two_faces")
def test_unseen_characters_and_faces_are_held_out_whole() -> None:
    train, held_out = captions(ImageData(size=8, unseen="character").load())
    assert not {c.split(", ")[0] for c in train} & {c.split(", ")[0] for c in held_out}
    corpus = ImageData(size=8, unseen="face", label="script").load()
    train, held_out = captions(corpus)
    assert not {c.split(", ")[1] for c in train} & {c.split(", ")[1] for c in held_out}


@pytest.mark.usefixtures("two_faces")
def test_glyphs_can_be_classed_by_face() -> None:
    assert ImageData(size=8, label="face").load().assets.classes == ("stix bold italic", "stix italic")


@pytest.mark.slow
def test_all_faces_give_fifty_thousand_pairs() -> None:
    corpus = ImageData().load()
    assert 50_000 < len(corpus.train) + len(corpus.validation) < 60_000
    assert "greek small letter alpha, serif bold" in captions(corpus)[0] + captions(corpus)[1]
