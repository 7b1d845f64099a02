"""Images with captions from every kind of source, split by image; what is left out is reported."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus
from seedfast.data.caption.flickr30k import unpack
from seedfast.data.caption.sources import glyph_captions
from seedfast.data.image import glyphs
from seedfast.errors import UserError
from seedfast.loop.config import from_mapping

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
    ],
    ids=["json", "coco", "pipes with header", "pipes", "commas with header", "commas", "tabs"],
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
        ("a.json", "{", {}, "not a JSON file"),
        ("a.json", "[1]", {}, "must map files to lists of captions"),
        ("a.json", '{"0.png": [3]}', {}, "malformed"),
        ("a.json", "{}", {}, "lists no images"),
        ("a.csv", "image;caption\n0.png;a text\n", {}, "line 2 .*separated by"),
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


@pytest.mark.parametrize("split_by", ["character", "face"])
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


@pytest.mark.parametrize("split_by", ["character", "face"])
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
    with pytest.raises(UserError, match=r"captions\.json already"):
        unpack(pictures / "flickr.zip", pictures / "out")
    (pictures / "no.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="not a zip or tar"):
        unpack(pictures / "no.zip", pictures / "other")


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
