"""The validation bytes of a corpus: the same for every tokenizer and context, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.runs import write_images

from seedfast.data.image.config import ImageData
from seedfast.data.text.config import TextData
from seedfast.evaluate.held_out import HeldOut, first_difference

WORDS = "the cat sees the bird. naïve 猫 and dogs; 3 of them hear it.\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one text, a folder of documents, and rows of prompts with completions."""
    home = tmp_path_factory.mktemp("held-out")
    (home / "book.txt").write_text("".join(f"{i} {WORDS}" for i in range(120)))
    (home / "folder").mkdir()
    for number in range(40):
        (home / "folder" / f"{number:02}.txt").write_text(f"{number} {WORDS}" * (1 + number % 5))
    rows = [{"prompt": f"say {i}: ", "completion": f"{i} {WORDS.strip()}"[: 20 + i % 30]} for i in range(60)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def held(path: Path, **options: Any) -> HeldOut:
    return HeldOut(TextData(path=str(path), **{"context": 16, "tokenizer": "bytes", **options}).load())


@pytest.mark.parametrize("name", ["book.txt", "folder"])
def test_tokenizer_and_context_change_no_byte(name: str, texts: Path) -> None:
    found = held(texts / name)
    assert found.kind == "text"
    assert found.size == found.corpus.assets.validation_bytes
    others = [
        held(texts / name, context=24),
        held(texts / name, tokenizer="characters"),
        held(texts / name, tokenizer="bpe", vocabulary=300),
        held(texts / name, one_document_per_window=True),
    ]
    for other in others:
        assert (other.digest, other.size, other.count) == (found.digest, found.size, found.count)
        assert first_difference(found, other) is None
        assert other.cut.sizes_E.sum() == found.size
        assert other.cut.documents_E is not None
    assert len({each.cut.identity for each in (found, *others[:2])}) == 3


def test_the_documents_are_the_held_out_text(texts: Path) -> None:
    text = (texts / "book.txt").read_text()
    (document,) = held(texts / "book.txt").documents()
    assert document.decode() == text[int(len(text) * 0.9) :]
    documents = list(held(texts / "folder", tokenizer="bpe", vocabulary=300).documents())
    files = {path.read_bytes() for path in (texts / "folder").iterdir()}
    assert documents
    assert set(documents) <= files


def test_answers_are_the_same_however_they_are_packed(texts: Path) -> None:
    found = held(texts / "rows.jsonl", context=80)
    other = held(texts / "rows.jsonl", context=96, tokenizer="characters")
    assert found.digest == other.digest
    assert found.cut.documents_E is None, "answers are independent"
    assert found.cut.identity != other.cut.identity
    assert found.cut.identity == held(texts / "rows.jsonl", context=80).cut.identity


def test_the_first_difference_is_named(texts: Path) -> None:
    one, other = held(texts / "book.txt"), held(texts / "book.txt", validation=0.2)
    assert one.digest != other.digest
    place = first_difference(one, other)
    assert place is not None
    assert (place.document, place.byte) == (0, 0)
    assert place.one != place.other
    longer = held(texts / "folder", validation=0.3)
    place = first_difference(held(texts / "folder"), longer)
    assert place is not None
    assert place.one != place.other


def test_images_are_their_pixels_and_classes(texts: Path) -> None:
    write_images(texts / "images", bytes(range(256)) * 16)
    data = ImageData(path=str(texts / "images"), size=8, channels=1, validation=0.25)
    found, other = HeldOut(data.load()), HeldOut(replace(data, size=4).load())
    assert found.kind == "image"
    assert found.count == len(found.corpus.validation)
    assert found.digest == HeldOut(replace(data, balance="inverse-frequency").load()).digest
    assert found.digest != other.digest
    assert found.cut.sizes_E.tolist() == [1] * found.count
