"""Captioned images from every form of list, split by image, with nothing lost in silence."""

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

NAMES = [f"{i}.png" for i in range(8)]
SAID = {name: [f"picture {i} of one", f"this is {i}, again"] for i, name in enumerate(NAMES)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        Image.new("RGB", (20 + i, 30), (i * 30, 10, 200)).save(tmp_path / name)
    return tmp_path


def load(path: Path, **options: Any) -> CaptionCorpus:
    settings = {"tokenizer": "bytes", "size": 8, "validation": 0.3, **options}
    return CaptionData(path=str(path), **settings).load()


def said(corpus: CaptionCorpus) -> dict[str, list[str]]:
    return {
        name: list(captions)
        for split in (corpus.train, corpus.validation)
        for name, captions in zip(split.names, split.captions, strict=True)  # type: ignore[attr-defined]
    }


def karpathy(held_out: str = "val") -> dict[str, Any]:
    roles = ["train", "restval", held_out, "train", "train", "train", "test" if held_out == "val" else "val", held_out]
    images = [
        {"filename": name, "split": role, "sentences": [{"raw": each} for each in SAID[name]]}
        for name, role in zip(NAMES, roles, strict=True)
    ]
    return {"images": images, "dataset": "x"}


def coco() -> dict[str, Any]:
    images = [{"id": 100 + i, "file_name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": [
        {"image_id": 100 + i, "caption": each} for i, name in enumerate(NAMES) for each in SAID[name]
    ]}  # fmt: skip


def table(delimiter: str, header: str, *, quoted: bool = False, numbered: bool = True) -> str:
    lines = [header] if header else []
    for name, captions in SAID.items():
        for number, caption in enumerate(captions):
            parts = [name, *([str(number)] if numbered else []), f'"{caption}"' if quoted else caption]
            lines.append(delimiter.join(parts))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(SAID)),
        ("coco.json", json.dumps(coco())),
        ("pipes.csv", table("| ", "image_name| comment_number| comment")),
        ("pipes.csv", table("|", "")),
        ("commas.csv", table(",", "image,caption", quoted=True, numbered=False)),
        ("commas.csv", table(",", "", quoted=True)),
        ("tokens.token", table("\t", "", numbered=False).replace(".png\t", ".png#0\t")),
    ],
    ids=["json", "coco", "pipes with header", "pipes", "commas with header", "commas", "tabs"],
)
def test_every_form_of_list_gives_the_same_captions(name: str, content: str, pictures: Path) -> None:
    (pictures / name).write_text(content)
    corpus = load(pictures / name)
    assert said(corpus) == SAID
    assert not corpus.skipped
    assert not set(corpus.train.names) & set(corpus.validation.names)  # type: ignore[attr-defined]


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_karpathy_split_says_who_validates(held_out: Any, pictures: Path) -> None:
    (pictures / "k.json").write_text(json.dumps(karpathy(held_out)))
    corpus = load(pictures / "k.json", held_out=held_out, validation=CaptionData.validation)
    assert corpus.validation.names == ["2.png", "7.png"]  # type: ignore[attr-defined]
    assert corpus.train.names == ["0.png", "1.png", "3.png", "4.png", "5.png"]  # type: ignore[attr-defined]


def test_the_split_is_by_image_and_copies_stay_together(pictures: Path) -> None:
    listed = {f"{i}.png": ["a word"] for i in range(8)}
    for i in range(8):
        (pictures / f"copy {i}.png").write_bytes((pictures / f"{i}.png").read_bytes())
        listed[f"copy {i}.png"] = ["another word"]
    (pictures / "a.json").write_text(json.dumps(listed))
    corpus = load(pictures / "a.json")
    sides = [{name[-5:] for name in split.names} for split in (corpus.train, corpus.validation)]  # type: ignore[attr-defined]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 8


def test_broken_and_missing_images_are_named_and_left_out(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "1.png").write_bytes(b"no picture")
    (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:60])
    (pictures / "3.png").unlink()
    (pictures / "a.json").write_text(json.dumps({**SAID, "4.png": [" "]}))
    corpus = load(pictures / "a.json")
    assert sorted(said(corpus)) == ["0.png", "5.png", "6.png", "7.png"]
    told = capsys.readouterr().err
    assert all(name in told for name in ("1.png", "2.png", "3.png (missing)", "4.png (no caption)"))


def test_a_row_that_is_none_is_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("|", "image_name| comment_number| comment") + "4.png| 4   A row that lost its bar.\n"
    (pictures / "r.csv").write_text(rows)
    assert said(load(pictures / "r.csv")) == SAID
    assert "lost its bar" in capsys.readouterr().err


def test_what_is_cut_is_said_and_padding_is_only_as_wide_as_the_batch(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.json").write_text(json.dumps(SAID | {"0.png": ["x" * 99]}))
    corpus = load(pictures / "a.json", context=20)
    assert "1 of 15 captions" in capsys.readouterr().err
    ids = [i for i, each in enumerate(corpus.train.captions) if len(each) == 2]  # type: ignore[attr-defined]
    batch = corpus.train.batch(ids[:2])
    assert batch["tokens"].shape == (2, 2, 16)
    assert batch["lengths"].tolist() == [[16, 16], [16, 16]]
    assert batch["pixels"].dtype == torch.uint8
    assert bytes(batch["tokens"][0, 0].tolist()).decode() == corpus.train.captions[ids[0]][0]  # type: ignore[attr-defined]


def test_assets_come_back_whole(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.json").write_text(json.dumps(SAID))
    corpus = load(pictures / "a.json", tokenizer="bpe", vocabulary=262)
    (tmp_path / "assets").mkdir()
    corpus.assets.save(tmp_path / "assets")
    again = CaptionAssets.load(tmp_path / "assets")
    assert again.tokenizer == corpus.assets.tokenizer
    assert (again.processor, again.context) == (corpus.assets.processor, 48)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.json", "{", {}, "no JSON file"),
        ("a.json", "[1]", {}, "must map files to lists of captions"),
        ("a.json", '{"0.png": [3]}', {}, "not as its form wants it"),
        ("a.json", "{}", {}, "lists no images"),
        ("a.csv", "image;caption\n0.png;a text\n", {}, "line 2 .*parted by"),
        ("a.json", json.dumps(coco() | {"annotations": [{"image_id": 100, "caption": None}]}), {}, "not as its form"),
        ("a.json", json.dumps(SAID), {"unseen": "face"}, "unseen='face' has no effect"),
        ("a.json", json.dumps(SAID), {"held_out": "val"}, "no Karpathy split"),
        ("a.json", json.dumps(SAID), {"images": "nowhere"}, "does not exist"),
        ("a.json", json.dumps(SAID), {"context": 1}, "context=1"),
        ("a.json", json.dumps(SAID), {"vocabulary": 300}, "vocabulary=300 has no effect"),
        ("a.json", json.dumps(SAID), {"tokenizer": "model"}, "language_model"),
        ("a.json", json.dumps({"0.png": ["x"]}), {}, "holds 1 usable images"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    name: str, content: str, options: dict[str, Any], message: str, pictures: Path
) -> None:
    (pictures / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(pictures / name, **options)


def test_rows_of_a_data_set(tmp_path: Path) -> None:
    import datasets

    images = [*(Image.new("RGB", (9, 9), (i * 20, 0, 0)) for i in range(7)), None]
    several = [[f"red {i}", "a square"] for i in range(6)]
    rows = datasets.Dataset.from_dict(
        {"image": images, "said": [*several, None, ["no picture"]]},
        features=datasets.Features({"image": datasets.Image(), "said": datasets.Sequence(datasets.Value("string"))}),
    )
    rows.save_to_disk(str(tmp_path / "rows"))
    corpus = CaptionData(path=f"hf:{tmp_path / 'rows'}", caption_field="said", tokenizer="bytes", size=8).load()
    assert sorted(said(corpus).values()) == several
    assert corpus.skipped[0] == "row 6 (no caption)"
    assert corpus.skipped[1].startswith("row 7 (")
    with pytest.raises(UserError, match='lacks the column "caption"'):
        CaptionData(path=f"hf:{tmp_path / 'rows'}", tokenizer="bytes").load()


@pytest.mark.parametrize("unseen", ["character", "face"])
def test_glyphs_are_held_out_by_character_or_by_face(
    unseen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole way through the cache, with three faces of the sixteen."""
    chosen = ("STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
    monkeypatch.setattr(glyphs, "FACES", {name: glyphs.FACES[name] for name in chosen})
    data = CaptionData(unseen=unseen, size=8, vocabulary=400, validation=0.1)
    corpus = data.load()
    parts: dict[str, list[set[str]]] = {"character": [], "face": []}
    for split in (corpus.train, corpus.validation):
        named = [name.rpartition(", ") for name in split.names]  # type: ignore[attr-defined]
        parts["character"].append({character for character, _, _ in named})
        parts["face"].append({face for _, _, face in named})
        said = [captions[0] for captions in split.captions]  # type: ignore[attr-defined]
        whole = [character if unseen == "face" else f"{character}, {face}" for character, _, face in named]
        assert said == whole, "a face that was never seen cannot be named"
    assert not parts[unseen][0] & parts[unseen][1]
    other = {"character": "face", "face": "character"}[unseen]
    assert parts[other][0] & parts[other][1], "only what is held out is new"
    assert 0 < len(corpus.validation) < len(corpus.train)
    tokens = corpus.validation.tokens[0][0].tolist()  # type: ignore[attr-defined]
    assert corpus.assets.tokenizer.decode(tokens) == corpus.validation.captions[0][0]  # type: ignore[attr-defined]
    assert data.load().fingerprint == corpus.fingerprint, "from the cache"
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "another"))
    assert data.load().fingerprint == corpus.fingerprint, "and anew"


@pytest.mark.parametrize("unseen", ["character", "face"])
def test_glyphs_are_keyed_by_what_is_unseen(unseen: Any) -> None:
    source = glyph_captions(unseen)
    images = [each for _, each in zip(range(40), source.images({}), strict=False)]
    keys = {each.key for each in images}
    assert len(keys) == (1 if unseen == "face" else 40)
    assert all(("," in each.captions[0]) == (unseen == "character") for each in images)


def test_flickr30k_comes_out_of_its_archive(pictures: Path) -> None:
    with zipfile.ZipFile(pictures / "flickr.zip", "w") as packed:
        for name in NAMES:
            packed.write(pictures / name, f"flickr30k_images/{name}")
        packed.writestr("flickr30k_images/results.csv", table("| ", "image_name| comment_number| comment"))
    file, count = unpack(pictures / "flickr.zip", pictures / "out")
    assert count == len(NAMES)
    assert json.loads(file.read_text()) == SAID
    assert said(load(file)) == SAID
    with pytest.raises(UserError, match=r"captions\.json already"):
        unpack(pictures / "flickr.zip", pictures / "out")
    (pictures / "no.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="no zip or tar"):
        unpack(pictures / "no.zip", pictures / "other")
