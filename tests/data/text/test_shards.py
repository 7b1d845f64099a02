"""Data in many files, prepared one by one: the same stream, no file read twice, bounded memory."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.processes import python
from tests.helpers.quick import slow_but
from tests.helpers.text_data import stream, texts

from seedfast.data import fingerprint
from seedfast.data.cache import clear, entries
from seedfast.data.text import shards, tokenizers
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.data.text.packing import JoinedPacked
from seedfast.data.text.shard import Shard
from seedfast.data.text.sharded_tokens import ShardedTokens
from seedfast.data.text.windows import DocumentWindows, Windows
from seedfast.errors import UserError

MANY = 120
WORDS = [
    "the",
    "cat",
    "sees",
    "a",
    "dog",
    "that",
    "likes",
    "birds",
    "and",
    "hears",
    "the",
    "fox",
    "behind",
    "an",
    "old",
    "house",
]


def document(number: int) -> str:
    return " ".join(WORDS[(number * k) % len(WORDS)] for k in range(3, 20)) + f" {number}."


def write_shards(folder: Path, *, count: int = MANY, rows: int = 6, form: str = "jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    for shard in range(count):
        found = [document(shard * rows + row) for row in range(rows)]
        path = folder / f"part-{shard:05}.{form}"
        if form == "jsonl":
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
        elif form == "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"text": found}), path)
        else:
            path.write_text("\n".join(found))
    return folder


def load(folder: Path, **options: Any) -> TextCorpus:
    return TextData(path=str(folder), **({"tokenizer": "bytes", "context": 32, "by_shard": True} | options)).load()


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that were tokenised, in this process."""
    done: list[str] = []
    real = shards.prepare_shard

    def note(shard: Shard, *arguments: Any, **options: Any) -> None:
        done.append(shard.name)
        real(shard, *arguments, **options)

    monkeypatch.setattr(shards, "prepare_shard", note)
    return done


@pytest.mark.parametrize("form", slow_but(["parquet", "txt"], ["jsonl", "parquet", "txt"]))
def test_every_document_is_in_one_split_once(form: str, tmp_path: Path) -> None:
    corpus = load(write_shards(tmp_path / "data", form=form))
    found = texts(corpus, corpus.train) + texts(corpus, corpus.validation)
    whole = [document(number) for number in range(6 * MANY)]
    if form == "txt":  # a file is a document
        whole = ["\n".join(whole[start : start + 6]) for start in range(0, 6 * MANY, 6)]
    assert sorted(found) == sorted(whole)
    assert 0.05 < len(texts(corpus, corpus.validation)) / len(whole) < 0.15
    assert sum(split["documents"] for split in corpus.splits.values()) == len(whole)


def test_the_documents_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    corpus = load(write_shards(tmp_path / "data", count=20), validation=0)
    assert texts(corpus, corpus.train) == [document(number) for number in range(120)]


def test_equal_documents_are_in_one_split_whatever_their_file(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", count=30)
    for path in list(folder.iterdir()):
        path.with_name(f"copy-{path.name}").write_bytes(path.read_bytes())
    corpus = load(folder)
    train, held = set(texts(corpus, corpus.train)), set(texts(corpus, corpus.validation))
    assert held
    assert not train & held


def test_a_second_time_no_file_is_read(tmp_path: Path, prepared: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_RACY", 0)
    folder = write_shards(tmp_path / "data", count=12)
    first = load(folder)
    assert len(prepared) == 12
    load(folder)  # hashes of what has just been written are stored now
    monkeypatch.setattr(fingerprint, "sha256", None)  # which reads a file
    again = load(folder)
    assert len(prepared) == 12
    assert again.fingerprint == first.fingerprint


def test_a_file_that_is_added_or_changed_costs_that_file(tmp_path: Path, prepared: list[str]) -> None:
    folder = write_shards(tmp_path / "data", count=12)
    first = load(folder)
    (folder / "part-00003.jsonl").write_text(json.dumps({"text": "another text that is here now"}) + "\n")
    (folder / "part-00099.jsonl").write_text(json.dumps({"text": "a text that has been added"}) + "\n")
    second = load(folder)
    assert prepared[12:] == ["part-00003.jsonl", "part-00099.jsonl"]
    assert second.fingerprint.digest != first.fingerprint.digest


def test_a_damaged_shard_is_prepared_again(
    tmp_path: Path, prepared: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_shards(tmp_path / "data", count=6)
    whole = stream(load(folder).train)
    victim = next(path for path in sorted(cache.rglob("train.bin")) if path.stat().st_size > 2)
    content = bytearray(victim.read_bytes())
    content[-2] ^= 1
    victim.write_bytes(content)
    assert stream(load(folder).train) == whole
    assert len(prepared) == 7
    assert "is damaged: it is prepared again" in capsys.readouterr().err.replace("\n", " ")


KILLED = """
import sys
from pathlib import Path
from seedfast.data import fingerprint
from seedfast.data.cache import clear, entries
from seedfast.data.text import shards
from seedfast.data.text.config import TextData
fingerprint._RACY = 0
if sys.argv[2] == "parallel":
    shards._IN_PROCESS, shards._cores = 1, lambda: 2
TextData(path=sys.argv[1], tokenizer="bytes", context=32, by_shard=True).load()
"""


@pytest.mark.parametrize("way", slow_but(["alone"], ["alone", "parallel"]))
def test_a_preparation_that_is_killed_goes_on_with_what_is_missing(way: str, tmp_path: Path, cache: Path) -> None:
    folder = write_shards(tmp_path / "data", rows=20)

    def finished() -> dict[str, int]:
        return {path.parent.name: path.stat().st_ino for path in cache.glob("shards/*/*/manifest.json")}

    killed = python(KILLED, folder, way)
    killed.wait_for(lambda: len(finished()) >= 20)
    killed.process.kill()
    assert killed.finish().returncode == -signal.SIGKILL
    before = finished()
    assert python(KILLED, folder, way).finish().returncode == 0
    after = finished()
    assert len(after) == MANY
    assert before.items() <= after.items()  # none was written again
    corpus = load(folder)
    assert len(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == 20 * MANY


def test_processes_give_the_same_corpus_and_pass_on_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "data", count=8)
    alone = load(folder)
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(shards, "_IN_PROCESS", 1)
    monkeypatch.setattr(shards, "_cores", lambda: 2)
    assert load(folder).fingerprint == alone.fingerprint
    (folder / "part-00005.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(UserError, match=r'Line 1 of .*part-00005\.jsonl has 3 in "text"'):
        load(folder)


def test_a_process_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "data", count=4)
    monkeypatch.setattr(shards, "_IN_PROCESS", 1)
    monkeypatch.setattr(shards, "_cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"has ended \(status 1; .*start again, and the shards that are done are kept"):
        load(folder)


def test_a_tokenizer_is_learned_from_training_documents_of_every_shard(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", count=40)
    corpus = load(folder, tokenizer="bpe", vocabulary=300)
    assert corpus.assets.tokenizer.size == 300
    held = texts(corpus, corpus.validation)
    (folder / "part-00000.jsonl").unlink()
    other = load(folder, tokenizer="bpe", vocabulary=300)
    assert other.assets.tokenizer.files() != corpus.assets.tokenizer.files()
    # The twin with the validation documents in other words gives the same tokenizer.
    for path in folder.iterdir():
        rows = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        kept = [text for text in rows if text not in held]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in kept) or '{"text": ""}\n')
    assert load(folder, tokenizer="bpe", vocabulary=300).assets.tokenizer.files() == other.assets.tokenizer.files()


def test_chats_are_packed_shard_by_shard(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for shard in range(10):
        rows = [{"prompt": f"say {shard * 9 + n}", "completion": f"{shard * 9 + n}"} for n in range(9)]
        (tmp_path / "data" / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = load(tmp_path / "data")
    assert isinstance(corpus.train, JoinedPacked)
    assert isinstance(corpus.validation, JoinedPacked)
    assert corpus.train.examples + corpus.validation.examples == 90
    assert corpus.introduction(1.0)[0].startswith(f"chats: {corpus.train.examples} examples")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tokenizer": "characters"}, "data.tokenizer=characters has to read everything first"), ({}, "leave it out")],
)
def test_what_has_no_shards_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", count=2)
    (tmp_path / "one.txt").write_text("a single text " * 50)
    with pytest.raises(UserError, match=message):
        load(folder if options else tmp_path / "one.txt", **options)


def test_a_new_run_prepares_many_large_files_as_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "data", rows=1)
    data = TextData(path=str(folder), tokenizer="bytes")
    assert data.started().by_shard is None
    monkeypatch.setattr(shards, "LARGE", 10)
    assert data.started().by_shard is True
    assert TextData(path=str(folder), tokenizer="bytes", by_shard=False).started().by_shard is False
    assert TextData(path=str(write_shards(tmp_path / "texts", form="txt"))).started().by_shard is None
    (folder / "part-00000.jsonl").unlink()
    monkeypatch.setattr(shards, "MANY", MANY)
    assert data.started().by_shard is None


PARTS = st.lists(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), max_size=4), min_size=2, max_size=6)


@settings(max_examples=60)
@given(parts=PARTS, context=st.integers(1, 7), prompt=st.integers(0, 4))
def test_windows_of_shards_are_those_of_one_file(parts: list[list[list[int]]], context: int, prompt: int) -> None:
    arrays = [np.array([0, *(token for text in part for token in (*text, 0))], np.uint16) for part in parts]
    whole = np.array([0, *(token for part in parts for text in part for token in (*text, 0))], np.uint16)
    sharded = ShardedTokens(arrays)
    assert len(sharded) == len(whole)
    assert sharded[np.arange(len(whole))].tolist() == whole.tolist()
    if len(whole) <= context:
        return
    for kind in (Windows, DocumentWindows):
        one, other = (kind(tokens, context, prompt=prompt, end_of_text=0) for tokens in (whole, sharded))
        assert len(one) == len(other)
        ids = list(range(len(one)))[::-1]
        for name, tensor in one.batch(ids).items():
            assert (other.batch(ids)[name] == tensor).all()


def test_a_shard_is_split_by_its_documents_alone(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", count=10)
    held = set(texts(whole := load(folder), whole.validation))
    for path in sorted(folder.iterdir())[:5]:
        path.unlink()
    rest = load(folder)
    assert set(texts(rest, rest.validation)) == held & {document(number) for number in range(30, 60)}


def test_the_cache_lists_the_shards_of_a_source_as_one(tmp_path: Path, cache: Path) -> None:
    load(write_shards(tmp_path / "texts of mine", count=5))
    (entry,) = (each for each in entries() if each.kind == "shards")
    assert entry.path.name.startswith("texts-of-mine-")
    assert entry.size > 1000
    assert clear(entry)
    assert not list(cache.glob("shards/*/*"))


def test_a_mixture_takes_shards_as_a_source(tmp_path: Path) -> None:
    write_shards(tmp_path / "many", count=10)
    (tmp_path / "one.jsonl").write_text("".join(json.dumps({"text": document(n)[::-1]}) + "\n" for n in range(50)))
    text = "sources: {many: {path: many, by_shard: true, weight: 2}, one: {path: one.jsonl, weight: 1}}"
    (tmp_path / "mixture.yaml").write_text(text)
    corpus = TextData(path=str(tmp_path / "mixture.yaml"), vocabulary=300, context=32).load()
    assert corpus.assets.tokenizer.size == 300
    assert list(corpus.validation_sources) == ["many", "one"]
    ids = corpus.order(seed=1, batch_size=4).ids(0, 90)
    assert corpus.train.batch(ids)["tokens"].shape == (90, 33)
    with pytest.raises(UserError, match=r"data.tokenizer=characters has to read everything first"):
        TextData(path=str(tmp_path / "mixture.yaml"), tokenizer="characters", context=32).load()


def test_the_workers_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizers.save(tokenizers.Bytes(), tmp_path)
    assert tokenizers.digest(tokenizers.load(tmp_path)) == tokenizers.digest(tokenizers.Bytes())


def test_a_worker_starts_without_pytorch() -> None:
    code = "import sys, seedfast.data.text.shard_workers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "False\n", done.stderr
