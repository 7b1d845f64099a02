"""Glyphs: names, fonts and scripts, deterministic drawings, and the units of the split."""

from pathlib import Path

import pytest

from seedfast.data.image import glyphs
from seedfast.data.image.config import ImageData
from seedfast.data.image.dataset import ImageCorpus


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
def test_glyphs_are_deterministic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = ImageData(size=8).load().fingerprint
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "another"))
    assert ImageData(size=8).load().fingerprint == first


@pytest.mark.usefixtures("two_faces")
def test_held_out_characters_and_faces_are_held_out_whole() -> None:
    train, held_out = captions(ImageData(size=8, split_by="character").load())
    assert not {c.split(", ")[0] for c in train} & {c.split(", ")[0] for c in held_out}
    corpus = ImageData(size=8, split_by="face", glyph_class="script").load()
    train, held_out = captions(corpus)
    assert not {c.split(", ")[1] for c in train} & {c.split(", ")[1] for c in held_out}


@pytest.mark.usefixtures("two_faces")
def test_glyphs_can_be_classed_by_face() -> None:
    assert ImageData(size=8, glyph_class="face").load().assets.classes == ("stix bold italic", "stix italic")


@pytest.mark.slow
def test_all_faces_give_fifty_thousand_pairs() -> None:
    corpus = ImageData().load()
    assert 50_000 < len(corpus.train) + len(corpus.validation) < 60_000
    assert "greek small letter alpha, serif bold" in captions(corpus)[0] + captions(corpus)[1]
