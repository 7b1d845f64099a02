"""The split of text: books beside small files, copies, prompts with many completions, and no validation at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.text_data import Writer, texts

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.packing import PackedDataset
from seedfast.errors import UserError

BOOK = "".join(f"Chapter {n}: the {n}th day was like the {n * n}th.\n" for n in range(200))


def load(path: Path, **options: Any) -> TextCorpus:
    return TextData(path=str(path), **{"tokenizer": "bytes", "context": 16, **options}).load()


def rows(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def pairs(packed: object) -> list[tuple[str, str]]:
    """The prompts and completions in the windows of a split."""
    assert isinstance(packed, PackedDataset)
    found = []
    for window in range(len(packed)):
        batch = packed.batch([window])
        tokens_L, documents_L = batch["tokens"][0], batch["documents"][0]
        for document in range(int(documents_L.max()) + 1):
            text = bytes(token for token in tokens_L[documents_L == document].tolist() if token < 256).decode()
            if text:
                found.append(text.partition(": "))
    return [(prompt, completion) for prompt, _, completion in found]


def test_a_book_beside_small_files_is_cut_and_its_end_validates(
    write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load(write({"book.txt": BOOK, "LICENSE.txt": "free as air\n", "README.md": "a book\n"}))
    boundary = int(len(BOOK) * 0.9)
    assert texts(corpus, corpus.train) == ["free as air\n", "a book\n", BOOK[:boundary]]
    assert texts(corpus, corpus.validation) == [BOOK[boundary:]]
    assert "the last 0.1 of book.txt validates and the rest trains" in capsys.readouterr().err


def test_a_folder_or_row_file_with_one_document_is_cut(write: Writer, tmp_path: Path) -> None:
    for path in (write({"book.txt": BOOK}), rows(tmp_path / "one.jsonl", [{"text": BOOK}])):
        corpus = load(path)
        assert texts(corpus, corpus.train) + texts(corpus, corpus.validation) == [
            BOOK[: int(len(BOOK) * 0.9)],
            BOOK[int(len(BOOK) * 0.9) :],
        ]


def test_a_document_is_cut_in_blocks_as_if_whole(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write({"book.txt": BOOK, "b.txt": "b"})
    whole = load(folder).fingerprint.digest
    for block in (1, 7, int(len(BOOK) * 0.9), 1 << 20):
        monkeypatch.setattr("seedfast.data.text.sources._BLOCK", block)
        monkeypatch.setattr("seedfast.data.text.tokenize._FORMAT", f"in blocks of {block}")
        assert load(folder).fingerprint.digest == whole


def test_equal_documents_are_in_one_split_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = [{"text": f"text number {n % 8} is here"} for n in range(80)]
    corpus = load(rows(tmp_path / "a.jsonl", content), validation=0.3)
    train, validation = set(texts(corpus, corpus.train)), set(texts(corpus, corpus.validation))
    assert not train & validation
    assert len(train | validation) == 8
    assert "72 of 80 documents of" in capsys.readouterr().err
    load(rows(tmp_path / "b.jsonl", [{"text": f"text number {n} is here"} for n in range(80)]))
    assert "copies" not in capsys.readouterr().err


def test_unequal_documents_are_reported_with_numbers(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    load(write({"a.txt": "a" * 500, "b.txt": "b" * 500}))
    assert "500 of 1,000 bytes of" in (said := capsys.readouterr().err)
    assert "50% where data.validation=0.1: whole documents validate" in said


@pytest.mark.parametrize(
    "prompts",
    [
        ["joke: "] * 200,
        [": "] * 200,
        [*["joke: "] * 199, "riddle: "],
        [*["joke: "] * 100, *["riddle: "] * 100],
    ],
    ids=["one prompt", "the shortest prompt", "nearly all", "two prompts"],
)
def test_completions_of_one_prompt_are_split_one_by_one(
    prompts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = [{"prompt": prompt, "completion": f"answer {number % 150:03}"} for number, prompt in enumerate(prompts)]
    corpus = load(rows(tmp_path / "a.jsonl", content), context=64)
    train, validation = pairs(corpus.train), pairs(corpus.validation)
    assert len(train) + len(validation) == 200
    assert 0.05 * 200 <= len(validation) <= 0.15 * 200
    assert not set(train) & set(validation), "equal rows are in one split"
    assert "are split one by one" in capsys.readouterr().err


def test_prompts_are_kept_together_where_that_gives_the_wanted_part(tmp_path: Path) -> None:
    content = [{"prompt": f"{number // 10}: ", "completion": f"answer {number:03}"} for number in range(200)]
    corpus = load(rows(tmp_path / "a.jsonl", content), context=64)
    train, validation = ({prompt for prompt, _ in pairs(split)} for split in (corpus.train, corpus.validation))
    assert len(validation) == 2
    assert not train & validation


@pytest.mark.parametrize(
    ("files", "options", "why"),
    [
        ({"a.txt": BOOK}, {"validation": 0.0}, "data.validation is 0"),
        ({"a.txt": BOOK, "b.txt": BOOK.upper()}, {"validation": 0.0}, "data.validation is 0"),
        ({"a.txt": "x" * 90}, {"context": 12}, "too small for data.validation=0.1"),
        ({"a.txt": "x" * 90, "b.txt": "y" * 90}, {"context": 120}, "too small for data.validation=0.1"),
        ({"a.jsonl": '{"prompt": "a", "completion": "b"}\n'}, {}, "too small for data.validation=0.1"),
    ],
    ids=["wanted", "wanted of documents", "short text", "short documents", "one example"],
)
@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_without_validation_all_trains_with_a_warning(
    files: dict[str, str], options: dict[str, Any], why: str, single: bool, write: Writer, capsys: Any
) -> None:
    folder = write(files)
    if len(files) > 1 and single:
        pytest.skip("a file holds one text")
    if "a.jsonl" in files and not single:
        options = {**options, "mode": "text"}
    corpus = load(folder / next(iter(files)) if single else folder, **options)
    assert len(corpus.validation) == 0
    assert corpus.splits["validation"]["bytes"] == 0
    assert len(corpus.train) > 0
    assert corpus.validation.batch([])["tokens"].shape[0] == 0
    assert corpus.assets.tokens_per_byte > 0
    assert "has no validation split, because" in (said := capsys.readouterr().err)
    assert why in said


def test_a_table_of_one_short_text_is_refused_unless_nothing_is_to_validate(tmp_path: Path) -> None:
    table = rows(tmp_path / "a.jsonl", [{"text": "the cat sees the dog and the dog sees the cat"}])
    with pytest.raises(UserError, match=r"a single row, too short .* --data.validation 0"):
        load(table)
    assert len(load(table, validation=0.0).train)


def test_each_notice_about_a_small_text_is_printed_once(write: Writer, capsys: Any) -> None:
    load(write({"a.txt": "hello world this is short", "latin.txt": b"caf\xe9"}), tokenizer="bpe", context=10)
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    for notice in ("latin.txt (not UTF-8)", "the vocabulary has these instead of 2,048", "has no validation split"):
        assert said.count(notice) == 1
