"""Files of rows are read as rows, whatever their ending and form, and never learned as the syntax of JSON or CSV."""

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_models
from tests.helpers.text_data import Writer, texts

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.packing import PackedDataset
from seedfast.errors import UserError

TEXTS = [{"text": f"row {n} with its text"} for n in range(30)]
PAIRS = [{"prompt": f"{a}+{b}=", "completion": f"{a + b}"} for a in range(8) for b in range(7)]
CHATS = [
    {"messages": [{"role": "user", "content": f"{a}+{b}"}, {"role": "assistant", "content": f"{a + b}"}]}
    for a in range(8)
    for b in range(7)
]


def load(path: Path | str, **options: Any) -> TextCorpus:
    return TextData(**{"path": str(path), "tokenizer": "bytes", "context": 24, "validation": 0.2, **options}).load()


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines_with_mark(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\r\n" for row in rows), "utf-8-sig")


def array(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows))


def indented(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows, indent=1))


def objects(path: Path, rows: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(row, indent=2) for row in rows))


def under_a_key(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps({"version": 1, "data": rows, "about": {"license": "free"}}, indent=1))


def by_number(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(dict(enumerate(rows))))


def columns(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))


def columns_of_pandas(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps({name: {n: row[name] for n, row in enumerate(rows)} for name in rows[0]}))


def capitals(path: Path, rows: list[Any]) -> None:
    table(path, [{name.capitalize(): value for name, value in row.items()} for row in rows])


def table(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)


def parquet(path: Path, rows: list[Any]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)


FILES: list[tuple[str, Callable[[Path, list[Any]], None]]] = [
    *((f"rows{ending}", lines) for ending in (".json", ".ndjson", ".jsonlines", ".JSONL", ".txt", "")),
    ("rows.jsonl", lines_with_mark),
    *((f"rows{ending}", array) for ending in (".json", ".jsonl")),
    ("rows.json", indented),
    *((f"rows{ending}", objects) for ending in (".json", ".jsonl")),
    *(("rows.json", write) for write in (under_a_key, by_number, columns, columns_of_pandas)),
    ("rows.csv", capitals),
    *((f"rows{ending}", table) for ending in (".csv", ".tsv")),
    ("rows.parquet", parquet),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model."""
    return tiny_models.folder(tmp_path_factory.mktemp("model") / "gpt2")


@pytest.fixture
def digest(tmp_path: Path) -> Callable[..., str]:
    """The digest of rows in a file that a function writes."""

    def of(name: str, write: Callable[[Path, list[Any]], None], rows: list[Any], **options: Any) -> str:
        write(tmp_path / name, rows)
        return load(tmp_path / name, **options).fingerprint.digest

    return of


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the dialogues in lines of JSON."""
    path = tmp_path_factory.mktemp("plain") / "plain.jsonl"
    lines(path, PAIRS)
    pairs = load(path).fingerprint.digest
    lines(path, CHATS)
    return {"pairs": pairs, "chats": load(path, tokenizer=str(model), context=40).fingerprint.digest}


@pytest.mark.parametrize(("name", "write"), FILES, ids=lambda value: getattr(value, "__name__", value))
def test_every_form_of_file_gives_the_same_dialogues(
    name: str, write: Callable[..., None], digest: Callable[..., str], plain: dict[str, str], model: Path
) -> None:
    assert digest(name, write, PAIRS) == plain["pairs"]
    assert digest(name, write, CHATS, tokenizer=str(model), context=40) == plain["chats"]


@pytest.mark.parametrize(
    ("name", "write"), [file for file in FILES if "." in file[0]], ids=lambda value: getattr(value, "__name__", value)
)
def test_texts_are_those_of_the_field(name: str, write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path / name, TEXTS)
    corpus = load(tmp_path / name, context=8)
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(r["text"] for r in TEXTS)


def test_chats_in_a_data_set_of_the_hub(tmp_path: Path, model: Path, digest: Callable[..., str]) -> None:
    datasets = pytest.importorskip("datasets")
    extra = [row | {"id": n, "tools": None} for n, row in enumerate(CHATS)]
    datasets.Dataset.from_list(extra).save_to_disk(tmp_path / "saved")
    options = {"tokenizer": str(model), "context": 40}
    corpus = load(f"hf:{tmp_path / 'saved'}", **options)
    assert corpus.fingerprint.digest == digest("plain.jsonl", lines, CHATS, **options)
    with pytest.raises(UserError, match=r"is a data set that save_to_disk wrote: name it as hf:"):
        load(tmp_path / "saved")


def test_several_forms_in_one_file(tmp_path: Path, model: Path) -> None:
    alpaca = [{"instruction": f"add {n} {n}", "input": "", "output": f"{2 * n}"} for n in range(20)]
    shared = [{"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": "a"}]} for n in range(9)]
    lines(tmp_path / "rows.jsonl", PAIRS + alpaca + CHATS + shared)
    corpus = load(tmp_path / "rows.jsonl", tokenizer=str(model), context=40)
    assert isinstance(corpus.train, PackedDataset)
    assert isinstance(corpus.validation, PackedDataset)
    assert corpus.train.examples + corpus.validation.examples == len(PAIRS + alpaca + CHATS + shared)


def test_alpaca_needs_no_chat_template(tmp_path: Path) -> None:
    lines(tmp_path / "rows.json", [{"instruction": f"add {n}", "input": "", "output": f"{n}"} for n in range(20)])
    corpus = load(tmp_path / "rows.json", tokenizer="characters", context=200)
    batch = corpus.train.batch([0])
    scored = batch["tokens"][:, 1:][batch["scored"]]
    assert corpus.assets.tokenizer.decode(scored.tolist()).strip("0123456789<|>endoftx") == ""


def test_the_introduction_counts_what_is_scored(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", PAIRS)
    corpus = load(tmp_path / "rows.jsonl")
    train = corpus.train
    assert isinstance(train, PackedDataset)
    (line,) = corpus.introduction(epochs=3)
    assert line == (f"chats: {train.examples} examples, scored {train.targets} of {train.tokens} tokens, 3 epochs")
    assert train.examples == corpus.splits["train"]["documents"]
    assert train.tokens == corpus.splits["train"]["tokens"]
    lines(tmp_path / "texts.jsonl", TEXTS)
    assert load(tmp_path / "texts.jsonl", context=8).introduction(epochs=9) == []


BESIDE: dict[str, tuple[dict[str, str], str]] = {
    "a text": (
        {"text": "a text of its own"},
        "read as dialogues by prompt and completion, .*; not used beside that: text ",
    ),
    "an instruction": (
        {"instruction": "a", "output": "b"},
        "by prompt and completion, .*; not used beside that: instruction and output",
    ),
}


@pytest.mark.parametrize("case", BESIDE)
def test_dialogues_go_before_what_stands_beside_them_and_that_is_said(
    case: str, digest: Callable[..., str], capsys: Any
) -> None:
    beside, message = BESIDE[case]
    plain = digest("plain.jsonl", lines, PAIRS)
    assert "read as dialogues" not in capsys.readouterr().err
    assert digest("both.jsonl", lines, [row | beside for row in PAIRS]) == plain
    assert re.search(message, capsys.readouterr().err)


def test_a_field_that_is_named_is_the_text_even_beside_dialogues(tmp_path: Path) -> None:
    lines(tmp_path / "both.jsonl", [row | {"text": f"text {n}"} for n, row in enumerate(PAIRS)])
    corpus = load(tmp_path / "both.jsonl", context=8, field="text")
    found = texts(corpus, corpus.train) + texts(corpus, corpus.validation)
    assert sorted(found) == sorted(f"text {n}" for n in range(len(PAIRS)))
    with pytest.raises(UserError, match='lacks the field "body"'):
        load(tmp_path / "both.jsonl", field="body")


def test_a_byte_order_mark_is_dropped_and_reported(write: Writer, capsys: Any) -> None:
    text = "the cat sees the dog\r\n" * 20
    folder = write({"plain.txt": text, "marked.txt": b"\xef\xbb\xbf" + text.encode()})
    plain, marked = (load(folder / f"{name}.txt", tokenizer="characters") for name in ("plain", "marked"))
    assert plain.fingerprint.digest == marked.fingerprint.digest
    assert "\r" in plain.assets.tokenizer.alphabet
    assert "Left out of" in (message := capsys.readouterr().err)
    assert "the byte order mark of marked.txt" in message


def test_values_that_python_cannot_hold_are_none_of_a_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    words, late = [row["text"] for row in TEXTS], pyarrow.array([2**62] * len(TEXTS), pyarrow.timestamp("ms"))
    parquet.write_table(pyarrow.table({"text": words, "late": late}), tmp_path / "a.parquet")
    corpus = load(tmp_path / "a.parquet", context=8)
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(words)
    with pytest.raises(UserError, match=r'Row 0 of .* has None in "late", which is no text'):
        load(tmp_path / "a.parquet", field="late")
    twice = pyarrow.Table.from_arrays([pyarrow.array(words)] * 2, names=["text", "text"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UserError, match='has the column "text" twice'):
        load(tmp_path / "b.parquet")


def test_a_readme_beside_rows_is_not_the_data(write: Writer, capsys: Any) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in TEXTS)
    folder = write(
        {
            "README.md": "about",
            "LICENSE.txt": "legal",
            "train.ndjson": rows,
            "dataset_info.json": "{\n}\n",
            "tsconfig.json": "{\n // x\n}",
        }
    )
    corpus = load(folder, context=8)
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(r["text"] for r in TEXTS)
    assert "README.md (it is about the rows)" in corpus.skipped
    beside = load(write({"book.txt": "prose " * 40, "two.txt": "verse " * 40}), context=8)
    assert "train.ndjson (rows beside texts: name one kind in data.include)" in beside.skipped


def test_folders_leave_out_what_cannot_be_read(tmp_path: Path, write: Writer) -> None:
    folder = write({"A.TXT": "upper case " * 9, "b.txt": "lower case " * 9, "c.txt": "third " * 20})
    os.mkfifo(folder / "pipe.txt")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("a name in Latin-1")
    corpus = load(folder, context=8)
    assert set(corpus.skipped) == {"pipe.txt (no regular file)", "caf\\udce9.txt (its name is not UTF-8)"}
    assert sum(split["documents"] for split in corpus.splits.values()) == 3


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "one JSON object": ("a.json", '{\n "name": "x"\n}', r"is one JSON object, and no rows .its keys are name: store"),
    "several lists": (
        "a.json",
        '{\n "a": [{"text": "x"}],\n "b": [{"text": "y"}]}',
        "holds the lists a, b: store each",
    ),
    "a split in one file": ("a.json", json.dumps({"train": TEXTS, "val": TEXTS}), "lists train, val: .* train.json"),
    "columns of different lengths": (
        "a.json",
        json.dumps({"prompt": ["a", "b"], "completion": ["c"]}),
        r"its columns have 2 \(prompt\) and 1 \(completion\) rows",
    ),
    "a list of lists": ("a.json", json.dumps([row["messages"] for row in CHATS]), "it is a list.: a row is an object"),
    "compressed by name": ("a.jsonl.gz", b"x", r"is an archive by its name \(.gz\), and damaged: download"),
    "compressed by content": ("a.txt", b"\x1f\x8b\x08x", r"is compressed \(gzip\): unpack it"),
    "a zip archive": ("a.txt", b"PK\x03\x04" + b"x" * 99, "is a zip archive: unpack it, and name the folder"),
    "a tar archive": ("a.txt", b"x" * 257 + b"ustar" + b"x" * 99, "is a tar archive: unpack it"),
    "a PDF document": ("a.txt", b"%PDF-1.7", "is a PDF document: save it as plain text"),
    "a key twice": ("a.jsonl", '{"text": "x"}\n{"text": "a", "text": "b"}\n', 'Line 2 of .* has the key "text" twice'),
    "an unknown form": ("a.csv", "x,y\n1,2\n", r"Line 2 of .*fields are x, y\): set data.field .*messages"),
    "chats without a template": ("a.json", json.dumps(CHATS), "Item 1 of .* this tokenizer has none"),
    "an unclosed quotation mark": ("a.csv", 'text,n\n"a,1\nb,2\n', "begins on line 2 of"),
    "equal dialogues": ("a.jsonl", '{"prompt": "a", "completion": "b"}\n' * 9, "All 9 examples of .* are equal"),
    "empty answers": ("a.jsonl", '{"prompt": "a", "completion": ""}\n{"prompt": "b", "completion": ""}\n', "are empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_in_a_sentence(case: str, write: Writer) -> None:
    name, content, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        load(write({name: content}) / name)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no regular file"):
        load(tmp_path / "pipe")


def test_text_that_begins_with_json_is_text(write: Writer) -> None:
    text = '{"title": "a"}\n' + "and then prose " * 40
    assert load(write({"a.txt": text}) / "a.txt", context=8).assets.validation_bytes > 50


def test_several_places_are_one_data_set(tmp_path: Path, write: Writer) -> None:
    lines(tmp_path / "a.jsonl", TEXTS[:10])
    table(tmp_path / "b.csv", TEXTS[10:20])
    folder = write({f"folder/{n}.txt": TEXTS[n]["text"] for n in range(20, 30)}) / "folder"
    places = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv"), str(folder))
    data = TextData(path="elsewhere", tokenizer="bytes", context=8).with_path(*places)
    corpus = data.load()
    found = texts(corpus, corpus.train) + texts(corpus, corpus.validation)
    assert sorted(found) == sorted(row["text"] for row in TEXTS)
    assert set(corpus.fingerprint.files) == {"1:a.jsonl", "2:b.csv", *(f"3:{n}.txt" for n in range(20, 30))}
    assert data.with_path("python").also == ()


def test_several_data_sets_of_dialogues_share_their_split(tmp_path: Path, digest: Callable[..., str]) -> None:
    lines(tmp_path / "a.jsonl", PAIRS[::2])
    array(tmp_path / "b.json", PAIRS[1::2])
    both = load(tmp_path / "a.jsonl", also=(str(tmp_path / "b.json"),))
    assert both.fingerprint.digest == digest("all.jsonl", lines, PAIRS[::2] + PAIRS[1::2])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("texts.jsonl", 'Line 1 of .*texts.jsonl lacks "prompt"'),
        ("prose.txt", "holds dialogues .* beside plain texts"),
        ("nowhere", 'data.path=".*nowhere" is neither'),
    ],
)
def test_texts_and_dialogues_do_not_mix(other: str, message: str, tmp_path: Path) -> None:
    lines(tmp_path / "pairs.jsonl", PAIRS)
    lines(tmp_path / "texts.jsonl", TEXTS)
    (tmp_path / "prose.txt").write_text("prose " * 50)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "pairs.jsonl", also=(str(tmp_path / other),))
