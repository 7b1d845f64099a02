"""Sources of images: folders, JSON lists, Hugging Face data sets, functions; unreadable images are named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile
from tests.helpers.image_data import image_data, write_image

from seedfast.data.dataset import describe_difference
from seedfast.data.image.config import ImageData
from seedfast.errors import UserError


def test_a_folder_has_a_class_for_each_sub_folder(folder: Path) -> None:
    corpus = image_data(folder).load()
    assert corpus.assets.classes == ("cat", "dog")
    assert len(corpus.train) + len(corpus.validation) == 16
    assert len(corpus.validation) == 4
    batch = corpus.train.batch([0, 1])
    assert batch["pixels"].dtype == torch.uint8
    assert batch["pixels"].shape == (2, 1, 8, 8)
    assert sum(corpus.assets.counts) == len(corpus.train)


def test_images_of_the_right_size_are_not_resampled(folder: Path) -> None:
    corpus = image_data(folder).load()
    found = {image.numpy().tobytes() for image in corpus.train.batch(list(range(len(corpus.train))))["pixels"]}
    stored = {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}
    assert found < stored


def test_a_folder_without_sub_folders_is_of_one_class(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", seed=number)
    assert image_data(tmp_path / "in").load().assets.classes == ("picture",)


def test_files_that_are_not_images_are_named_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat/broken.png").write_bytes((folder / "cat/01.png").read_bytes()[:60])
    (folder / "cat/noise.jpg").write_bytes(b"no picture at all")
    (folder / "dog/notes.txt").write_text("hello")
    write_image(folder / "stray.png")
    corpus = image_data(folder).load()
    message = capsys.readouterr().err
    for name in (
        "cat/broken.png",
        "cat/noise.jpg",
        "dog/notes.txt (not a picture)",
        "stray.png (in no class's folder)",
    ):
        assert name in message
    assert len(corpus.skipped) == 4
    assert len(corpus.train) + len(corpus.validation) == 16


@pytest.mark.parametrize(
    "broken", [RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError, EOFError, ZeroDivisionError]
)
def test_any_error_of_a_decoder_names_the_image(
    broken: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's decoders raise all of these on bytes that they did not expect."""
    (folder / "cat/odd.ppm").write_bytes(b"P6 8 8 255\n" + bytes(192))

    def load(image: PpmImageFile) -> None:
        raise broken("at byte 7")

    monkeypatch.setattr(PpmImageFile, "load", load)
    (skipped,) = image_data(folder).load().skipped
    assert skipped.startswith("cat/odd.ppm (")
    assert "at byte 7" in skipped


def test_a_name_that_is_not_utf_8_is_named_and_left_out(folder: Path) -> None:
    write_image(folder / "cat/x.png")
    (folder / "cat/x.png").rename(folder / "cat" / os.fsdecode(b"caf\xe9.png"))
    assert image_data(folder).load().skipped == ("cat/caf\\udce9.png (a name that is not UTF-8)",)


def test_a_linked_class_folder_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "wolf").symlink_to(folder / "dog")
    corpus = image_data(folder).load()
    assert corpus.skipped == ("wolf (link to a folder)",)
    assert corpus.assets.classes == ("cat", "dog")


def test_classes_lie_below_the_folders_of_a_given_split(tmp_path: Path) -> None:
    for number in range(12):
        place = f"{('train', 'train', 'val')[number % 3]}/{'cat' if number < 6 else 'dog'}/{number}.PNG"
        write_image(tmp_path / "set" / place, seed=number)
    write_image(tmp_path / "set/train/stray.png", seed=20)
    write_image(tmp_path / "set/test/cat/30.png", seed=30)
    corpus = ImageData(path=str(tmp_path / "set"), size=8, channels=1).load()
    assert corpus.assets.classes == ("cat", "dog")
    assert (len(corpus.train), len(corpus.validation), corpus.assets.counts) == (8, 4, (4, 4))
    assert corpus.skipped == (
        "test (1 pictures of a test split, which is never trained on)",
        "train/stray.png (in no class's folder)",
    )
    with pytest.raises(UserError, match="has its own split"):
        ImageData(path=str(tmp_path / "set"), size=8, channels=1, validation=0.3).load()


def test_a_run_inside_the_data_is_no_part_of_it(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "set" / ("cat" if number % 2 else "dog") / f"{number}.png", seed=number)
    before = image_data(tmp_path / "set").load()
    write_image(tmp_path / "set/run/samples/grid.png", seed=20)
    for name in ("run.yaml", "journal.jsonl"):
        (tmp_path / "set/run" / name).write_text("")
    after = image_data(tmp_path / "set").load()
    assert after.fingerprint == before.fingerprint
    assert after.skipped == ("run (run folder)",)


def test_a_folder_of_training_images_alone_only_wraps_the_classes(tmp_path: Path) -> None:
    for number in range(12):
        write_image(tmp_path / "set/train" / ("cat" if number % 2 else "dog") / f"{number}.png", seed=number)
    corpus = image_data(tmp_path / "set").load()
    assert corpus.assets.classes == ("cat", "dog")
    assert len(corpus.validation) == 3


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture"):
        image_data(tmp_path).load()


def test_a_json_list_defines_the_split(folder: Path) -> None:
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


def test_a_null_class_is_no_class(folder: Path) -> None:
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
        ("{", "is not JSON"),
        ("[]", '"train" and "validation"'),
        ('{"test": []}', '"train" and "validation"'),
        ('{"train": [], "validation": [], "test": []}', "it has the keys train, validation, test"),
        ('{"train": [], "validation": [], "train": []}', 'the key "train" twice'),
        ('{"train": ' + "[" * 200_000, "is not JSON"),
        ('{"train": ["a.png"], "validation": []}', 'with the key "image"'),
        ('{"train": [{"image": 3}], "validation": []}', 'with the key "image"'),
        ('{"train": {"cat": "a.png"}, "validation": []}', "map classes to lists"),
        ('{"train": [{"image": "a"}], "validation": [{"image": "a"}]}', "more than once"),
        ('{"train": [{"image": "a"}], "validation": [{"image": "./a"}]}', r"lists a again as \./a"),
        ('{"train": [{"image": "a\\u0000"}], "validation": []}', 'with the key "image"'),
        ('{"train": [{"image": "a\\ud800"}], "validation": [{"image": "b"}]}', "half a character"),
        ('{"train": [{"image": "a"}], "validation": [{"image": "b"}]}', r"no usable images \(left out: a .*, b .*\)"),
    ],
)
def test_invalid_lists_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        ImageData(path=str(tmp_path / "x.json"), size=8).load()


def test_a_data_set_of_the_library_datasets(folder: Path, tmp_path: Path) -> None:
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


def test_rows_without_image_or_class_are_named_and_left_out(
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


OWN = """
from pathlib import Path

import numpy as np
from PIL import Image

def images():
    for number in range(12):
        values = np.full((8, 8), 20 * number, np.uint8)
        yield (Image.fromarray(values) if number % 2 else values), ("odd" if number % 2 else None)

def colours():
    for number in range(6):
        yield np.full((8, 10, 3), 40 * number, np.uint8), 7

def numbers():
    yield 3, "a"

def floats():
    yield np.zeros((8, 8)), "a"

def triples():
    yield 1, 2, 3

def read():
    for number in range(6):
        level = int((Path(__file__).parent / "level").read_text())
        yield np.full((8, 8), level + number, np.uint8), None

def restless():
    for number in range(6):
        calls.append(number)
        yield np.full((8, 8), len(calls), np.uint8), None

calls = []
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with functions that yield images."""
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_function_of_your_own_yields_images_and_classes(own: Path) -> None:
    corpus = ImageData(path=f"{own}:images", size=8, channels=1, validation=0.25).load()
    assert corpus.assets.classes == ("odd", "picture")
    pixels = [*corpus.train.batch(list(range(len(corpus.train))))["pixels"]]
    pixels += [*corpus.validation.batch(list(range(len(corpus.validation))))["pixels"]]
    assert sorted(int(image[0, 0, 0]) for image in pixels) == [20 * number for number in range(12)]
    colours = ImageData(path=f"{own}:colours", size=8, validation=0.25).load()
    assert (colours.assets.classes, colours.assets.channels) == (("7",), 3)


def test_a_change_of_the_function_s_file_is_a_change_of_the_data(own: Path) -> None:
    config = ImageData(path=f"{own}:images", size=8, channels=1, validation=0.25)
    before = config.load().fingerprint
    assert config.load().fingerprint == before
    own.write_text(OWN.replace("20 * number", "21 * number"))
    after = config.load().fingerprint
    assert describe_difference(before, after) == "changed: own.py"
    assert after.digest != before.digest


def test_a_function_that_reads_other_files_is_read_again_when_they_change(own: Path) -> None:
    digests = set()
    for level in ("1", "2", "1"):
        (own.parent / "level").write_text(level)
        digests.add(ImageData(path=f"{own}:read", size=8, channels=1, validation=0.25).load().fingerprint.digest)
    assert len(digests) == 2


def test_a_function_that_yields_other_images_each_time_is_refused(own: Path) -> None:
    with pytest.raises(UserError, match="yields other images when it is called again"):
        ImageData(path=f"{own}:restless", size=8, validation=0.25).load()


def test_a_function_is_found_from_any_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    assert ImageData(path="own.py:images").located().path == f"{own}:images"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "has no function called nothing"),
        ("numbers", r"image 0 of .*own.py:numbers must be an image of Pillow or an array uint8 .* not int"),
        ("floats", r"must be an image of Pillow or an array uint8 .* not float64 \[8, 8\]"),
        ("triples", r"must yield pairs \(image, class or None\), but item 0 is \(1, 2, 3\)"),
    ],
)
def test_functions_that_yield_no_images_are_refused(function: str, message: str, own: Path) -> None:
    with pytest.raises(UserError, match=message):
        ImageData(path=f"{own}:{function}", size=8, validation=0.25).load()
