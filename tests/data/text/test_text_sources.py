"""Every source yields its documents, reports what it left out, and refuses unusable data in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.text_data import Writer, texts

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.errors import UserError


def load(path: Path | str, **options: Any) -> TextCorpus:
    return TextData(**{"path": str(path), "tokenizer": "bytes", "context": 8, **options}).load()


def found(corpus: TextCorpus) -> list[str]:
    return sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation))


ROWS = [f"row {n} with its text\n" for n in range(30)]


def jsonl(rows: list[Any], field: str = "text") -> str:
    return "".join(json.dumps({field: row, "other": 1}) + "\n" for row in rows)


def test_jsonl(write: Writer) -> None:
    path = write({"rows.jsonl": jsonl(ROWS) + "\n"}) / "rows.jsonl"
    before = load(path)
    assert found(before) == sorted(ROWS)
    renamed = load(path.rename(path.with_name("renamed.jsonl")))
    assert renamed.fingerprint.digest == before.fingerprint.digest
    other = write({"other.jsonl": jsonl(ROWS, "body")}) / "other.jsonl"
    assert found(load(other, field="body")) == sorted(ROWS)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"body": ROWS, "n": list(range(30))}), path, row_group_size=7)
    assert found(load(path, field="body")) == sorted(ROWS)
    with pytest.raises(UserError, match=r'Row 0 of .* lacks the field "text" \(its fields are body, n\)'):
        load(path)
    with pytest.raises(UserError, match=r'Row 0 of .* has 0 in "n", which is no text'):
        load(path, field="n")
    latin = pyarrow.array([b"so", b"caf\xe9"], pyarrow.binary()).view(pyarrow.utf8())
    parquet.write_table(pyarrow.table({"text": latin}), path)
    with pytest.raises(UserError, match=r"Row 1 of .* has b'caf\\xe9' in \"text\", which is no text"):
        load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is not Parquet"):
        load(path)


def test_shards_in_a_folder(write: Writer) -> None:
    folder = write({"a.jsonl": jsonl(ROWS[:9]), "b/c.jsonl": jsonl(ROWS[9:]), "d.txt": "not asked for"})
    assert found(load(folder, include=("*.jsonl",))) == sorted(ROWS)


def test_hub_data_sets(tmp_path: Path, write: Writer) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ROWS}).save_to_disk(tmp_path / "saved")
    corpus = load(f"hf:{tmp_path / 'saved'}")
    assert found(corpus) == sorted(ROWS)
    assert load(f"hf:{tmp_path / 'saved'}").fingerprint == corpus.fingerprint
    with pytest.raises(UserError, match=r'Row 0 of .* lacks the field "body" \(its fields are text\)'):
        load(f"hf:{tmp_path / 'saved'}", field="body")
    with pytest.raises(UserError, match=r"The data set hf:nobody/nothing cannot be loaded .*save_to_disk"):
        load("hf:nobody/nothing")
    for name, content in {"state.json": "[]", "a.csv": 'text,n\n"never closed,1\n'}.items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=r"cannot be loaded .*: check its files"):
            load(f"hf:{folder}")


def test_a_folder_is_scanned_by_mode_include_and_exclude(write: Writer) -> None:
    files = {
        "read.md": "prose 1",
        "sub/note.txt": "prose 2",
        "main.py": "code 1",
        "sub/deep/lib.rs": "code 2",
        "data.bin": "other",
        ".hidden/x.py": "hidden",
        "__pycache__/y.py": "generated",
        "sub/node_modules/z.js": "fetched",
    }
    folder = write({name: f"{text} of {name}" for name, text in files.items()})

    def kinds(**options: Any) -> set[str]:
        return {text.split(" of ")[0] for text in found(load(folder, **options))}

    assert kinds() == {"prose 1", "prose 2", "code 1", "code 2"}
    assert kinds(mode="text") == {"prose 1", "prose 2"}
    assert kinds(mode="code") == {"code 1", "code 2"}
    assert kinds(include=("*.bin", "*.md")) == {"other", "prose 1"}
    assert kinds(include=("sub/*",), exclude=("node_modules",)) == {"prose 2", "code 2"}
    assert kinds(exclude=("sub", ".*")) == {"prose 1", "code 1", "generated"}
    assert kinds(exclude=("sub/deep",)) >= {"hidden", "fetched", "prose 2"}
    assert "code 2" not in kinds(exclude=("sub/deep",))


def test_a_run_inside_the_data_is_no_part_of_it(write: Writer) -> None:
    files = {"a.txt": "good text", "b.txt": "more of it"}
    before = load(write(files))
    run = {"run.yaml": "recipe: x\n", "journal.jsonl": "", "samples/samples.txt": "a sample", "report.html": "<p>"}
    after = load(write({f"runs/one/{name}": content for name, content in run.items()}))
    assert after.fingerprint == before.fingerprint
    assert after.skipped == ("runs/one (run folder)",)


def test_unusable_files_are_left_out_and_named(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(
        {"a.txt": "good text", "b.txt": "more of it", "empty.txt": "", "latin.txt": "café".encode("latin-1")}
    )
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "link").symlink_to(folder.parent)
    wanted = {
        "empty.txt (empty)",
        "latin.txt (not UTF-8)",
        "gone.txt (unreadable)",
        "link (link to a folder)",
    }
    for _ in range(2):  # prepared, then from the cache
        corpus = load(folder)
        assert found(corpus) == ["good text", "more of it"]
        assert set(corpus.skipped) == wanted
        message = capsys.readouterr().err
        assert message.count("\n") == 2, "the second line is about the split"
        assert all((name in message) == ("empty" not in name) for name in wanted)  # nothing is missed of an empty one
    assert set(corpus.fingerprint.files) == {"a.txt", "b.txt", "empty.txt", "latin.txt", "gone.txt"}


def test_row_files_of_a_folder_are_read_alone_or_with_mode_text(write: Writer) -> None:
    assert found(load(write({"a.jsonl": jsonl(ROWS)}))) == sorted(ROWS)
    both = write({"a.jsonl": jsonl(ROWS), "b.txt": "some prose", "c.py": "some code"})
    assert found(load(both)) == ["some code", "some prose"]
    assert found(load(both, mode="text")) == sorted(["some prose", *ROWS])


@pytest.mark.parametrize("ending", ["py", "js", "ts", "go", "java", "cs", "cpp", "c"])
def test_code_mode_takes_every_usual_ending_from_any_depth(ending: str, write: Writer) -> None:
    folder = write({f"a/b/{n}.{ending}": f"x = {n};\n" * 20 for n in range(4)} | {"notes.txt": "prose " * 50})
    corpus = TextData(path=str(folder), tokenizer="bytes", context=8, mode="code").load()
    assert sum(side["documents"] for side in corpus.splits.values()) == 4
    assert torch.equal(corpus.train.batch([0])["tokens"][0, :4], torch.tensor([256, *b"x ="]))


def test_an_unreachable_hub_is_not_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("seedfast.huggingface.unreachable", lambda: "the wire is cut")
    with pytest.raises(
        UserError, match=r"hf:stanfordnlp/imdb cannot be loaded \(the wire is cut\).*save_to_disk"
    ) as caught:
        load("hf:stanfordnlp/imdb")
    assert "\n" not in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE, "only meanwhile"
    assert not constants.HF_HUB_OFFLINE


def test_a_file_that_ends_within_a_character_is_not_utf8(write: Writer) -> None:
    folder = write({"a.txt": "good text", "b.txt": "more of it", "cut.txt": "caf\u00e9".encode()[:-1]})
    assert load(folder).skipped == ("cut.txt (not UTF-8)",)


GOOD = {"a.txt": "good text " * 9, "b.txt": "more of it " * 9}
BAD: dict[str, tuple[dict[str, str | bytes], str, dict[str, Any], str]] = {
    "missing": ({}, "nowhere", {}, r'data\.path=".*nowhere" is neither a file nor a folder: name one'),
    "empty file": ({"a.txt": ""}, "a.txt", {}, r"a\.txt is empty: name a file of text"),
    "not UTF-8": ({"a.txt": b"caf\xe9"}, "a.txt", {}, r"a\.txt is not UTF-8"),
    "no match": (
        {"a.bin": "x"},
        ".",
        {},
        r'No file in .* matches the endings of data\.mode="auto" .*there are \.bin.*include',
    ),
    "only rows, as code": (
        {"a.jsonl": "{}"},
        ".",
        {"mode": "code"},
        r"there are \.jsonl\): name others in data\.include",
    ),
    "rows of another field": (
        {"a.jsonl": '{"body": "x"}\n'},
        ".",
        {},
        r'lacks the field "text" \(its fields are body\)',
    ),
    "unreadable bytes": ({"a.py": b"\xff", "b.c": b"\xfe"}, ".", {}, r"no usable documents \(besides a.py \(not UTF-8"),
    "no match of include": (GOOD, ".", {"include": ("*.c",)}, r"matches data\.include=\('\*\.c',\)"),
    "only empty ones": ({"a.txt": "", "b.txt": ""}, ".", {}, r"holds no usable documents"),
    "short validation": (GOOD, ".", {"context": 200}, r"The train split .* has \d+ tokens .*data\.context=200"),
    "no JSON": ({"a.jsonl": '{"text": "a"}\n{text}\n'}, "a.jsonl", {}, r"Line 2 of .*a\.jsonl is not JSON"),
    "no field": (
        {"a.jsonl": '{"text": "a"}\n\n{"body": "b"}\n'},
        "a.jsonl",
        {},
        r'Line 3 .*"text" \(its fields are body\)',
    ),
    "no object": (
        {"a.jsonl": '["text"]\n'},
        "a.jsonl",
        {},
        r"Item 1 .* lacks the names of its fields \(it is no JSON object",
    ),
    "no text": (
        {"a.jsonl": '{"text": null}\n'},
        "a.jsonl",
        {},
        r'Line 1 .* has None in "text", which is no text',
    ),
    "half a character": ({"a.jsonl": '{"text": "a\\ud83c"}\n'}, "a.jsonl", {}, r"Line 1 .*U\+D83C"),
    "deeply nested JSON": ({"a.jsonl": "[" * 100_000}, "a.jsonl", {}, r"Item 1 of .*a\.jsonl is not JSON \(it nests"),
    "JSONL not UTF-8": ({"a.jsonl": b'{"text": "\xe9"}\n'}, "a.jsonl", {}, r"Line 1 of .* is not UTF-8"),
    "vocabulary too small": (
        GOOD,
        ".",
        {"tokenizer": "bpe", "vocabulary": 100},
        r"data\.vocabulary=100 is too small",
    ),
    "idle vocabulary": (
        GOOD,
        ".",
        {"vocabulary": 300},
        r"data\.vocabulary \(300\) has no effect without data\.tokenizer bpe",
    ),
    "idle field": (GOOD, ".", {"field": "body"}, r"data\.field \(body\) has no effect, because .* holds no rows"),
    "idle field of python": ({}, "python", {"field": "body"}, r"data\.field \(body\) has no effect"),
    "idle mode": (GOOD, "a.txt", {"mode": "code"}, r"data\.mode \(code\) has no effect, because .* is not a folder"),
    "idle include": ({}, "python", {"include": ("*.c",)}, r"data\.include \(\('\*\.c',\)\) has no effect"),
    "idle exclude": ({}, "hf:some", {"exclude": ()}, r"data\.exclude \(\(\)\) has no effect"),
    "mode and include": (
        GOOD,
        ".",
        {"mode": "code", "include": ("*",)},
        r'replaces the endings of data\.mode="code"',
    ),
    "an empty name": (GOOD, "", {}, r"data\.path must be a name, not empty"),
    "all validates": (GOOD, ".", {"validation": 1.0}, r"data\.validation must be in \[0, 1\), not 1\.0"),
    "no context": (GOOD, ".", {"context": 0}, r"data\.context must be at least 1, not 0"),
    "no tokenizer": (
        GOOD,
        ".",
        {"tokenizer": "nobody/nothing"},
        r'The tokenizer "nobody/nothing" cannot be loaded',
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_refused_in_a_sentence(case: str, write: Writer, cache: Path) -> None:
    files, name, options, message = BAD[case]
    folder = write(files)
    path = name if name in ("", "python", "hf:some") else folder / name
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert not list((cache / "text").glob("*unfinished*"))
