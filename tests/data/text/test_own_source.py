"""A function of the user is a source of text: its documents are the data, and every mistake is one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.text_data import texts

from seedfast.data.dataset import describe_difference
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.packing import PackedDataset
from seedfast.errors import UserError

ROWS = [f"row {n} with its text\n" for n in range(30)]
TEXTS = """
ROWS = [f"row {n} with its text\\n" for n in range(30)]

def documents():
    return ROWS

def one_by_one():
    yield from ROWS

def rows():
    for row in ROWS:
        yield {"text": row, "other": object()}

def bodies():
    for row in ROWS:
        yield {"body": row, "prompt": "not used", "completion": "either"}

def mixed():
    for number, row in enumerate(ROWS):
        yield row if number % 2 else {"text": row}

def sums():
    for a in range(8):
        for b in range(7):
            yield {"prompt": f"{a}+{b}=", "completion": str(a + b)}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TEXTS)
    return path


def load(path: Path, function: str, **options: Any) -> TextCorpus:
    return TextData(**{"path": f"{path}:{function}", "tokenizer": "bytes", "context": 8, **options}).load()


@pytest.mark.parametrize("function", ["documents", "one_by_one", "rows", "mixed"])
def test_texts_and_rows_are_documents(function: str, source: Path) -> None:
    corpus = load(source, function)
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(ROWS)
    assert corpus.skipped == ()


def test_the_field_names_the_text_of_a_row(source: Path) -> None:
    corpus = load(source, "bodies", field="body")
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(ROWS)


def test_the_split_is_that_of_the_same_rows_in_a_parquet_file(source: Path, tmp_path: Path) -> None:
    """Documents are assigned to a split by their number, so the form of the source does not matter."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ROWS}), tmp_path / "rows.parquet")
    corpus = load(source, "documents")
    stored = TextData(path=str(tmp_path / "rows.parquet"), tokenizer="bytes", context=8).load()
    assert texts(corpus, corpus.validation) == texts(stored, stored.validation)
    assert corpus.fingerprint.digest == stored.fingerprint.digest


def test_prompts_with_completions_are_packed_as_from_a_jsonl_file(source: Path, tmp_path: Path) -> None:
    corpus = load(source, "sums", context=24)
    rows = [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a in range(8) for b in range(7)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stored = TextData(path=str(tmp_path / "rows.jsonl"), tokenizer="bytes", context=24).load()
    assert isinstance(corpus.train, PackedDataset)
    assert corpus.fingerprint.digest == stored.fingerprint.digest
    assert corpus.assets == stored.assets


def test_file_and_documents_are_in_the_fingerprint(source: Path) -> None:
    before = load(source, "documents").fingerprint
    assert set(before.files) == {"mine.py", "mine.py:documents"}
    assert load(source, "documents").fingerprint == before
    source.write_text(TEXTS + "# a comment\n")
    commented = load(source, "documents").fingerprint
    assert commented.digest == before.digest, "the same documents are the same data"
    assert describe_difference(before, commented) == "changed: mine.py"
    source.write_text(TEXTS.replace("with its text", "with another"))
    changed = load(source, "documents").fingerprint
    assert changed.digest != before.digest
    assert describe_difference(before, changed) == "changed: mine.py, mine.py:documents"


def test_changed_documents_of_an_unchanged_file_are_noticed(source: Path, tmp_path: Path) -> None:
    """The function may read other files: its documents count, not its code."""
    (tmp_path / "poems.csv").write_text("".join(f"a poem, number {n}\n" for n in range(30)))
    source.write_text(f"def lines():\n    return open({str(tmp_path / 'poems.csv')!r}).readlines()\n")
    before = load(source, "lines").fingerprint
    with (tmp_path / "poems.csv").open("a") as file:
        file.write("one more\n")
    after = load(source, "lines").fingerprint
    assert after.digest != before.digest
    assert describe_difference(before, after) == "changed: mine.py:lines"


def test_prepared_documents_are_reused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(source, "documents")
    monkeypatch.setattr("seedfast.data.text.config.fill_folder", None)  # calling it would fail
    assert load(source, "documents").fingerprint == before.fingerprint


def test_the_path_is_made_absolute(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(source.parent)
    located = TextData(path="mine.py:documents", tokenizer="bytes", context=8).located()
    assert located.path == f"{source}:documents"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(located.load().train)
    assert TextData(path="mine.py:documents").located().path == "mine.py:documents", "there is no such file here"


BAD: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "no such file": ("", "nowhere.py:documents", {}, r"names the file .*nowhere\.py, which does not exist"),
    "no such function": ("x = 1\n", "mine.py:documents", {}, r"mine\.py has no function called documents"),
    "broken file": ("def documents(:\n", "mine.py:documents", {}, r"mine\.py raises SyntaxError at line 1 "),
    "fails when called": (
        "def f():\n    x = 1\n    return [1 / 0]\n",
        "mine.py:f",
        {},
        r"mine\.py:f raises ZeroDivisionError at line 3 \(division by zero\): fix it",
    ),
    "fails on the way": (
        "def f():\n    yield 'a'\n    raise ValueError('no\\nmore')\n",
        "mine.py:f",
        {},
        r"mine\.py:f raises ValueError at line 3 \(no more\): fix it",
    ),
    "takes arguments": (
        "def f(path):\n    return []\n",
        "mine.py:f",
        {},
        r"raises TypeError \(f\(\) missing 1 required",
    ),
    "nothing": ("def f():\n    return []\n", "mine.py:f", {}, r"mine\.py:f yields no documents: yield at least two"),
    "none": ("def f():\n    pass\n", "mine.py:f", {}, r"returns None \(NoneType\), which is no sequence of documents"),
    "one text": ("def f():\n    return 'abc'\n", "mine.py:f", {}, r"returns 'abc' \(str\), which is no sequence"),
    "one row": ("def f():\n    return {'text': 'abc'}\n", "mine.py:f", {}, r"returns .*\(dict\), which is no sequence"),
    "one document": (
        "def f():\n    return ['ab']\n",
        "mine.py:f",
        {},
        r"holds a single row, too short to hold out a part of it",
    ),
    "empty documents": (
        "def f():\n    return ['', '']\n",
        "mine.py:f",
        {},
        r"no usable documents \(besides document 0",
    ),
    "a number": ("def f():\n    return ['a', 3]\n", "mine.py:f", {}, r"Document 1 of mine\.py:f is 3 \(int\), but a"),
    "bytes": ("def f():\n    return [b'a']\n", "mine.py:f", {}, r"Document 0 of mine\.py:f is b'a' \(bytes\), but a"),
    "a row without text": (
        "def f():\n    return [{'body': 'a'}]\n",
        "mine.py:f",
        {},
        r'Document 0 of mine\.py:f lacks the field "text" \(its fields are body\)',
    ),
    "a later row without text": (
        "def f():\n    return [{'text': 'a'}, {}]\n",
        "mine.py:f",
        {},
        r'Document 1 of mine\.py:f lacks the field "text"',
    ),
    "a text that is none": (
        "def f():\n    return [{'text': None}]\n",
        "mine.py:f",
        {},
        r'Document 0 of mine\.py:f has None in "text", which is no text',
    ),
    "half a character": ("def f():\n    return ['a\\ud83c']\n", "mine.py:f", {}, r"Document 0 of .*U\+D83C"),
    "a text among dialogues": (
        "def f():\n    return [{'prompt': 'a', 'completion': 'b'}, 'c']\n",
        "mine.py:f",
        {},
        r'Document 1 of mine\.py:f lacks "prompt"',
    ),
    "unused field": (
        TEXTS,
        "mine.py:documents",
        {"field": "body"},
        r"data\.field \(body\) has no effect, because mine",
    ),
    "unused mode": (TEXTS, "mine.py:documents", {"mode": "code"}, r"data\.mode \(code\) has no effect"),
    "unseeded": (
        "import random\ndef f():\n    return [str(random.random()) * 9 for _ in range(9)]\n",
        "mine.py:f",
        {},
        r"mine\.py:f yields other documents when it is called again: .*seed",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_mistakes_are_named_in_a_sentence(case: str, tmp_path: Path, cache: Path) -> None:
    source, name, options, message = BAD[case]
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UserError, match=message) as caught:
        TextData(**{"path": f"{tmp_path}/{name}", "tokenizer": "bytes", "context": 4, **options}).load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert not list((cache / "text").glob("*unfinished*"))


def test_a_name_that_only_looks_like_a_function_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.py:old").write_text("a plain text " * 20)
    corpus = TextData(path=str(tmp_path / "notes.py:old"), tokenizer="bytes", context=8).load()
    assert corpus.assets.validation_bytes == 26
