"""Images with captions from every kind of source, split by image; what is left out is reported."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.quick import slow_but
from tests.helpers.text_data import hub_folder

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus
from seedfast.data.caption.flickr30k import unpack
from seedfast.data.caption.sources import glyph_captions
from seedfast.data.image import glyphs
from seedfast.errors import UserError
from seedfast.loop.plain_config import from_mapping

NAMES = [f"{i}.png" for i in range(8)]
CAPTIONS = {name: [f"picture {i} of one", f"this is {i}, again"] for i, name in enumerate(NAMES)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        Image.new("RGB", (20 + i, 30), (i * 30, 10, 200)).save(tmp_path / name)
    return tmp_path


def load(path: Path, **options: Any) -> CaptionCorpus:
    settings = {"tokenizer": "bytes", "size": 8, "validation": 0.3, **options}
    return CaptionData(path=str(path), **settings).load()


def captions_of(corpus: CaptionCorpus) -> dict[str, list[str]]:
    return {
        name: list(captions)
        for split in (corpus.train, corpus.validation)
        for name, captions in zip(split.names, split.captions, strict=True)
    }


def karpathy(validation_split: str = "val") -> dict[str, Any]:
    other = "test" if validation_split == "val" else "val"
    splits = ["train", "restval", validation_split, "train", "train", "train", other, validation_split]
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": each} for each in CAPTIONS[name]]}
        for name, split in zip(NAMES, splits, strict=True)
    ]
    return {"images": images, "dataset": "x"}


def coco() -> dict[str, Any]:
    images = [{"id": 100 + i, "file_name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": [
        {"image_id": 100 + i, "caption": each} for i, name in enumerate(NAMES) for each in CAPTIONS[name]
    ]}  # fmt: skip


def table(delimiter: str, header: str, *, quoted: bool = False, numbered: bool = True) -> str:
    lines = [header] if header else []
    for name, captions in CAPTIONS.items():
        for number, caption in enumerate(captions):
            parts = [name, *([str(number)] if numbered else []), f'"{caption}"' if quoted else caption]
            lines.append(delimiter.join(parts))
    return "\n".join(lines) + "\n"


def pandas_table() -> str:
    rows = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]
    return ",image,caption\n" + "".join(f'{index},{name},"{text}"\n' for index, (name, text) in enumerate(rows))


def rows_of(image: str, caption: str) -> str:
    rows = [{image: name, caption: text} for name, captions in CAPTIONS.items() for text in captions]
    return "".join(json.dumps(row) + "\n" for row in rows)


def lists_table(write: Callable[[list[str]], str], splits: str = "") -> str:
    """The hub's annotations of Flickr30k: captions as a list in the first column, the file in the last but one."""
    rows = [[write(captions), "[0, 1]", "train", name, str(i)] for i, (name, captions) in enumerate(CAPTIONS.items())]
    for row, split in zip(rows, splits.split(), strict=False):
        row[2] = split
    table = io.StringIO()
    csv.writer(table).writerows([["raw", "sentids", "split", "filename", "img_id"], *rows])
    return table.getvalue()


def wide_table() -> str:
    rows = "".join(f'{name},"{first}","{second}"\n' for name, (first, second) in CAPTIONS.items())
    return "image,caption_1,caption_2\n" + rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(CAPTIONS)),
        ("coco.json", json.dumps(coco())),
        ("pipes.csv", table("| ", "image_name| comment_number| comment")),
        ("pipes.csv", table("|", "")),
        ("commas.csv", table(",", "image,caption", quoted=True, numbered=False)),
        ("commas.csv", table(",", "", quoted=True)),
        ("tokens.token", table("\t", "", numbered=False).replace(".png\t", ".png#0\t")),
        ("UPPER.JSON", "\ufeff" + json.dumps(CAPTIONS)),
        ("semicolons.CSV", table(";", "image;caption", quoted=True, numbered=False)),
        ("index.csv", pandas_table()),
        ("windows.csv", "\ufeff" + table(",", "image,caption", quoted=True, numbered=False).replace("\n", "\r\n")),
        ("metadata.csv", table(",", "file_name,text", quoted=True, numbered=False)),
        ("metadata.jsonl", rows_of("file_name", "text")),
        ("rows.json", "[" + rows_of("image", "caption").strip().replace("\n", ",") + "]"),
        ("lists.csv", lists_table(json.dumps)),
        ("lists.csv", lists_table(repr)),
        ("wide.csv", wide_table()),
    ],
    ids=[
        "json",
        "coco",
        "pipes with header",
        "pipes",
        "commas with header",
        "commas",
        "tabs",
        "upper case and a byte order mark",
        "semicolons",
        "the index of pandas",
        "Windows",
        "the hub's table",
        "the hub's JSON lines",
        "a list of objects",
        "lists in JSON",
        "lists in Python",
        "a column for each caption",
    ],
)
def test_every_list_format_gives_the_same_captions(name: str, content: str, pictures: Path) -> None:
    (pictures / name).write_text(content)
    corpus = load(pictures / name)
    assert captions_of(corpus) == CAPTIONS
    assert not corpus.skipped
    assert not set(corpus.train.names) & set(corpus.validation.names)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_karpathy_split_defines_what_validates(split: Any, pictures: Path) -> None:
    (pictures / "k.json").write_text(json.dumps(karpathy(split)))
    corpus = load(pictures / "k.json", validation_split=split, validation=CaptionData.validation)
    assert corpus.validation.names == ["2.png", "7.png"]
    assert corpus.train.names == ["0.png", "1.png", "3.png", "4.png", "5.png"]


def test_copies_of_an_image_are_in_the_same_split(pictures: Path) -> None:
    listed = {f"{i}.png": ["a word"] for i in range(8)}
    for i in range(8):
        (pictures / f"copy {i}.png").write_bytes((pictures / f"{i}.png").read_bytes())
        listed[f"copy {i}.png"] = ["another word"]
    (pictures / "a.json").write_text(json.dumps(listed))
    corpus = load(pictures / "a.json")
    sides = [{name[-5:] for name in split.names} for split in (corpus.train, corpus.validation)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 8


def test_broken_and_missing_images_are_reported_and_left_out(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "1.png").write_bytes(b"no picture")
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:60])
    (pictures / "3.png").unlink()
    (pictures / "a.json").write_text(json.dumps({**CAPTIONS, "4.png": [" "]}))
    corpus = load(pictures / "a.json")
    assert sorted(captions_of(corpus)) == ["0.png", "5.png", "6.png", "7.png"]
    report = capsys.readouterr().err
    assert all(name in report for name in ("1.png", "2.png", "3.png (missing)", "4.png (no caption)"))


def test_a_malformed_row_is_reported(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("|", "image_name| comment_number| comment") + "4.png| 4   A row that lost its bar.\n"
    (pictures / "r.csv").write_text(rows)
    assert captions_of(load(pictures / "r.csv")) == CAPTIONS
    assert "lost its bar" in capsys.readouterr().err


@pytest.mark.parametrize("row", [3, 15], ids=["in the middle", "at the end"])
def test_a_quotation_mark_that_is_not_closed_costs_only_its_own_row(
    row: int, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(",", "image,caption", quoted=True, numbered=False).splitlines()
    lines[1 + row] = lines[1 + row].removesuffix('"')
    (pictures / "r.csv").write_text("\n".join(lines) + "\n")
    found = captions_of(load(pictures / "r.csv"))
    name, number = NAMES[row // 2], row % 2
    assert found == CAPTIONS | {name: [CAPTIONS[name][1 - number]]}
    assert f"line {row + 2} (a quotation mark that is not closed" in capsys.readouterr().err


def test_a_caption_may_span_lines_and_hold_quotation_marks(pictures: Path) -> None:
    rows = [f'{name},"a ""big"" dog,\nand a cat of {i}"' for i, name in enumerate(NAMES)]
    (pictures / "r.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    assert captions_of(load(pictures / "r.csv"))["3.png"] == ['a "big" dog, and a cat of 3']


def test_rows_that_are_repeated_or_mangled_are_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(",", "image,caption", quoted=True, numbered=False)
    again = '2.png,"picture 2 of one"\n3.png,"two" many\n4.png\n'
    (pictures / "r.csv").write_text(rows + again)
    assert captions_of(load(pictures / "r.csv")) == CAPTIONS
    report = capsys.readouterr().err
    for place in (
        "line 18 (2.png with the same caption again)",
        "line 19 (text after a closing quotation mark",
        "line 20 ('4.png')",
    ):
        assert place in report


def test_rows_of_json_lines_that_hold_no_example_are_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = '{"file_name": "1.png"}\n\n{"text": "a"}\n{"file_name": "1.png", "text": 7}\n'
    (pictures / "m.jsonl").write_text(rows_of("file_name", "text") + more)
    assert captions_of(load(pictures / "m.jsonl")) == CAPTIONS
    report = capsys.readouterr().err
    for reason in ("17 (no caption", "19 (no image", "20 (captions must be a text"):
        assert f"line {reason}" in report
    (pictures / "m.jsonl").write_text(rows_of("file_name", "text") + "nonsense\n")
    with pytest.raises(UserError, match=r"Line 17 of .*m\.jsonl is not JSON"):
        load(pictures / "m.jsonl")


def test_a_karpathy_image_of_an_unknown_split_is_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = karpathy()
    content["images"][0]["split"] = "extra"
    (pictures / "k.json").write_text(json.dumps(content))
    assert "0.png" not in captions_of(load(pictures / "k.json", validation=CaptionData.validation))
    assert "0.png (the split 'extra', which is none of train" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", ["train val test train train val test train", "TRAIN Val Test Train train VAL test Train"]
)
def test_a_table_with_a_split_defines_what_validates(names: str, pictures: Path) -> None:
    (pictures / "t.csv").write_text(lists_table(json.dumps, names))
    options: dict[str, Any] = {"validation": CaptionData.validation}
    corpus = load(pictures / "t.csv", **options)
    assert corpus.validation.names == ["1.png", "5.png"]
    assert corpus.train.names == ["0.png", "3.png", "4.png", "7.png"]
    assert load(pictures / "t.csv", validation_split="test", **options).validation.names == ["2.png", "6.png"]
    with pytest.raises(UserError, match="has its own split"):
        load(pictures / "t.csv")


def test_a_folder_in_the_layout_of_the_hub_is_found_by_its_metadata(pictures: Path) -> None:
    (pictures / "metadata.jsonl").write_text(rows_of("file_name", "text"))
    assert captions_of(load(pictures)) == CAPTIONS
    for split, names in {"train": NAMES[:6], "validation": NAMES[6:]}.items():
        (pictures / "hub" / split).mkdir(parents=True)
        for name in names:
            (pictures / name).rename(pictures / "hub" / split / name)
        rows = [{"file_name": name, "text": CAPTIONS[name]} for name in names]
        (pictures / "hub" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = load(pictures / "hub", validation=CaptionData.validation)
    assert split.validation.names == ["validation/6.png", "validation/7.png"]
    assert len(split.train) == 6
    (pictures / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match=r"holds metadata\.jsonl and metadata\.csv: name one of them"):
        load(pictures)


def test_images_lie_beside_the_list_or_in_its_folder_images(pictures: Path) -> None:
    (pictures / "a.json").write_text(json.dumps(CAPTIONS))
    (pictures / "images").mkdir()
    assert captions_of(load(pictures / "a.json")) == CAPTIONS, "beside, although there is images/"
    for name in NAMES:
        (pictures / name).rename(pictures / "images" / name)
    assert captions_of(load(pictures / "a.json")) == CAPTIONS


def test_cut_captions_are_reported_and_batches_are_padded_to_their_longest_caption(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.json").write_text(json.dumps(CAPTIONS | {"0.png": ["x" * 99]}))
    corpus = load(pictures / "a.json", context=20)
    assert "1 of 15 captions" in capsys.readouterr().err
    ids = [i for i, each in enumerate(corpus.train.captions) if len(each) == 2]
    batch = corpus.train.batch(ids[:2])
    assert batch["tokens"].shape == (2, 2, 16)
    assert batch["lengths"].tolist() == [[16, 16], [16, 16]]
    assert batch["pixels"].dtype == torch.uint8
    assert bytes(batch["tokens"][0, 0].tolist()).decode() == corpus.train.captions[ids[0]][0]


def test_assets_are_restored_from_a_folder(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.json").write_text(json.dumps(CAPTIONS))
    corpus = load(pictures / "a.json", tokenizer="bpe", vocabulary=262)
    (tmp_path / "assets").mkdir()
    corpus.assets.save(tmp_path / "assets")
    again = CaptionAssets.load(tmp_path / "assets")
    assert again.tokenizer == corpus.assets.tokenizer
    assert (again.processor, again.context) == (corpus.assets.processor, 48)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.json", "{", {}, "is not JSON"),
        ("a.json", "[1]", {}, "must map files to lists of captions"),
        ("a.json", '{"0.png": [3]}', {}, "malformed"),
        ("a.json", '{"0\\u0000.png": ["x"]}', {}, "malformed.*the name of an image's file"),
        ("a.json", json.dumps(coco() | {"images": [{"id": 100, "file_name": None}]}), {}, "malformed.*not None"),
        ("a.json", json.dumps(karpathy()).replace('"0.png"', "0"), {}, "malformed.*the name of an image's file"),
        ("a.json", "{}", {}, "lists no images"),
        ("a.csv", "image caption\n0.png a text\n", {}, "line 1 is 'image caption'.*separated by"),
        ("a.json", '{"0.png": ["x"], "1.png": ["y"], "0.png": ["z"]}', {}, 'the key "0.png" twice'),
        (
            "a.json",
            json.dumps(
                [
                    {"image": name, "caption": "x", "split": split}
                    for name, split in [("0.png", "train"), ("1.png", "val"), ("./0.png", "val")]
                ]
            ),
            {},
            "in the split train and in validation",
        ),
        ("a.json", json.dumps([{"image": "0.png", "caption": "x", "split": "val"}]), {}, "needs images that train"),
        ("a.json", '{"0.png": ["\\ud800"], "1.png": ["x"]}', {}, "half a character"),
        ("a.json", json.dumps(coco() | {"annotations": [{"image_id": 100, "caption": None}]}), {}, "malformed"),
        (
            "a.json",
            json.dumps(CAPTIONS),
            {"split_by": "face"},
            r"data.split_by \(face\) has no effect without data.path glyphs",
        ),
        (
            "a.json",
            json.dumps(CAPTIONS),
            {"validation_split": "val"},
            r"data.validation_split \(val\) .* is no Karpathy split",
        ),
        ("a.json", json.dumps(CAPTIONS), {"images": "nowhere"}, "does not exist"),
        ("a.json", json.dumps(CAPTIONS), {"context": 1}, "data.context must be at least 2, not 1"),
        (
            "a.json",
            json.dumps(CAPTIONS),
            {"vocabulary": 300},
            r"data.vocabulary \(300\) has no effect without data.tokenizer bpe",
        ),
        ("a.json", json.dumps(CAPTIONS), {"tokenizer": "model"}, "language_model"),
    ],
)
def test_unusable_data_is_refused_in_a_sentence(
    name: str, content: str, options: dict[str, Any], message: str, pictures: Path
) -> None:
    (pictures / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(pictures / name, **options)


def test_rows_of_a_hugging_face_data_set(tmp_path: Path) -> None:
    import datasets

    images = [*(Image.new("RGB", (9, 9), (i * 20, 0, 0)) for i in range(7)), None]
    several = [[f"red {i}", "a square"] for i in range(6)]
    rows = datasets.Dataset.from_dict(
        {"image": images, "sentences": [*several, None, ["no picture"]]},
        features=datasets.Features(
            {"image": datasets.Image(), "sentences": datasets.Sequence(datasets.Value("string"))}
        ),
    )
    rows.save_to_disk(str(tmp_path / "rows"))
    corpus = CaptionData(path=f"hf:{tmp_path / 'rows'}", caption_field="sentences", tokenizer="bytes", size=8).load()
    assert sorted(captions_of(corpus).values()) == several
    assert corpus.skipped[0] == "row 6 (no caption)"
    assert corpus.skipped[1].startswith("row 7 (")
    with pytest.raises(UserError, match='lacks the column "caption"'):
        CaptionData(path=f"hf:{tmp_path / 'rows'}", tokenizer="bytes").load()


@pytest.mark.parametrize("split_by", slow_but(["face"], ["character", "face"]))
def test_validation_holds_new_characters_or_new_faces(
    split_by: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With three of the sixteen faces, through the cache."""
    chosen = ("STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
    monkeypatch.setattr(glyphs, "FACES", {name: glyphs.FACES[name] for name in chosen})
    data = CaptionData(split_by=split_by, size=8, vocabulary=400, validation=0.1)
    corpus = data.load()
    parts: dict[str, list[set[str]]] = {"character": [], "face": []}
    for split in (corpus.train, corpus.validation):
        named = [name.rpartition(", ") for name in split.names]
        parts["character"].append({character for character, _, _ in named})
        parts["face"].append({face for _, _, face in named})
        first = [captions[0] for captions in split.captions]
        whole = [character if split_by == "face" else f"{character}, {face}" for character, _, face in named]
        assert first == whole, "captions do not name an unseen face"
    assert not parts[split_by][0] & parts[split_by][1]
    other = {"character": "face", "face": "character"}[split_by]
    assert parts[other][0] & parts[other][1], "the other property is in both splits"
    assert 0 < len(corpus.validation) < len(corpus.train)
    tokens = corpus.validation.tokens[0][0].tolist()
    assert corpus.assets.tokenizer.decode(tokens) == corpus.validation.captions[0][0]
    assert data.load().fingerprint == corpus.fingerprint, "from the cache"
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "another"))
    assert data.load().fingerprint == corpus.fingerprint, "prepared again"


@pytest.mark.parametrize("split_by", slow_but(["face"], ["character", "face"]))
def test_glyphs_of_one_split_key_are_what_the_split_keeps_together(split_by: Any) -> None:
    source = glyph_captions(split_by)
    images = [each for _, each in zip(range(40), source.images(), strict=False)]
    groups = {each.split_key for each in images}
    assert len(groups) == (1 if split_by == "face" else 40)
    assert all(("," in each.captions[0]) == (split_by == "character") for each in images)


def test_flickr30k_is_unpacked_from_its_archive(pictures: Path) -> None:
    with zipfile.ZipFile(pictures / "flickr.zip", "w") as packed:
        for name in NAMES:
            packed.write(pictures / name, f"flickr30k_images/{name}")
        packed.writestr("flickr30k_images/results.csv", table("| ", "image_name| comment_number| comment"))
    file, count = unpack(pictures / "flickr.zip", pictures / "out")
    assert count == len(NAMES)
    assert json.loads(file.read_text()) == CAPTIONS
    assert captions_of(load(file)) == CAPTIONS
    before = file.stat().st_mtime_ns
    assert unpack(pictures / "flickr.zip", pictures / "out") == (file, len(NAMES))
    assert file.stat().st_mtime_ns == before, "it is already there"
    file.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        unpack(pictures / "flickr.zip", pictures / "out")
    (pictures / "no.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="not a zip or tar"):
        unpack(pictures / "no.zip", pictures / "other")
    assert not (pictures / "other").exists(), "complete or absent"
    (pictures / "full").mkdir()
    (pictures / "full/mine.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        unpack(pictures / "flickr.zip", pictures / "full")


def test_flickr30k_in_the_layout_of_the_hub(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with the table of annotations, whose captions are lists in JSON, and the images as a zip."""
    hub = pictures / "hub"
    hub.mkdir()
    with zipfile.ZipFile(hub / "flickr30k-images.zip", "w") as packed:
        for name in NAMES[:-1]:
            packed.write(pictures / name, f"flickr30k-images/{name}")
        packed.writestr("__MACOSX/flickr30k-images/._0.png", "x")
    (hub / "flickr_annotations_30k.csv").write_text(lists_table(json.dumps, "train val test train train val test"))
    (hub / "README.md").write_text("about")
    file, count = unpack(hub, pictures / "out")
    assert count == 7
    assert "7.png (missing)" in capsys.readouterr().err
    assert captions_of(load(file)) == {name: CAPTIONS[name] for name in NAMES[:-1]}
    split = load(file.with_name("karpathy.json"), validation=CaptionData.validation)
    assert split.validation.names == ["1.png", "5.png"]
    whole = pictures / "whole.zip"
    with zipfile.ZipFile(whole, "w") as packed:
        for path in hub.iterdir():
            packed.write(path, f"flickr30k/{path.name}")
    assert unpack(whole, pictures / "nested")[1] == 7, "the repository as one archive"
    (hub / "flickr30k-images").mkdir()
    for name in NAMES[:-1]:
        (hub / "flickr30k-images" / name).write_bytes((pictures / name).read_bytes())
    assert unpack(hub, pictures / "again")[1] == 7
    assert "flickr30k-images.zip are already there" in capsys.readouterr().err


def test_the_vocabulary_is_learned_from_training_captions_alone(pictures: Path) -> None:
    (pictures / "a.json").write_text(json.dumps(CAPTIONS))
    before = load(pictures / "a.json", tokenizer="bpe", vocabulary=270)
    changed = {
        name: ["zyzzyva " * 40] if name in before.validation.names else captions for name, captions in CAPTIONS.items()
    }
    (pictures / "a.json").write_text(json.dumps(changed))
    after = load(pictures / "a.json", tokenizer="bpe", vocabulary=270)
    assert after.validation.names == before.validation.names
    assert after.assets.tokenizer == before.assets.tokenizer


def test_old_run_files_name_the_validation_split_held_out(pictures: Path) -> None:
    data = from_mapping(CaptionData(), {"path": str(pictures / "k.json"), "held_out": "test"}, where="run.yaml")
    assert data.validation_split == "test"


def test_without_validation_all_images_train_with_a_warning(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "a.json").write_text(json.dumps(CAPTIONS))
    (pictures / "b.json").write_text(json.dumps({"0.png": ["x"]}))
    for name, options, count in (("a.json", {"validation": 0.0}, len(NAMES)), ("b.json", {}, 1)):
        corpus = load(pictures / name, **options)
        assert (len(corpus.train), len(corpus.validation)) == (count, 0)
        assert "has no validation split" in capsys.readouterr().err


def test_a_tokenizer_that_loses_text_is_refused(pictures: Path, tmp_path: Path) -> None:
    lossy = hub_folder(tmp_path / "lossy", ["picture one"], lowercase=True)
    (pictures / "a.json").write_text(json.dumps({name: ["A Picture"] for name in NAMES}))
    with pytest.raises(UserError, match=r"does not give back a caption of 0\.png: 'A Picture' becomes 'a picture'"):
        load(pictures / "a.json", tokenizer=str(lossy))
    with pytest.raises(UserError, match=r"characters.* is for texts"):
        load(pictures / "a.json", tokenizer="characters")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "captions.json")
    with pytest.raises(UserError, match="is no regular file: store the captions in one"):
        load(tmp_path / "captions.json")
