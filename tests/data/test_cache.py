"""Prepared data is committed whole, verified on use, and prepared once by all processes together."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.processes import python
from tests.helpers.text_data import Writer

from seedfast.data.cache import TokenWriter, cache_folder, read_tokens, token_type
from seedfast.data.text.config import TextData
from seedfast.errors import UserError
from seedfast.files import UNFINISHED


@pytest.fixture
def data(documents: dict[str, str], write: Writer) -> TextData:
    return TextData(path=str(write(documents)), vocabulary=300, context=16)


def prepared(cache: Path) -> Path:
    """The one prepared folder."""
    (folder,) = (path for path in (cache / "text").iterdir() if path.is_dir())
    return folder


def test_prepared_data_are_reused(
    data: TextData, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = data.load()
    capsys.readouterr()
    monkeypatch.setattr("seedfast.data.text.config.fill_folder", None)  # calling it would fail
    second = data.load()
    assert second.fingerprint == first.fingerprint
    assert second.assets == first.assets
    assert second.train.batch([1])["tokens"].tolist() == first.train.batch([1])["tokens"].tolist()
    assert capsys.readouterr().err == ""
    assert len(list(prepared(cache).iterdir())) == 5


@pytest.mark.parametrize("option", [{"vocabulary": 301}, {"validation": 0.2}, {"exclude": ("doc00*",)}])
def test_other_options_prepare_other_data(data: TextData, cache: Path, option: dict[str, object]) -> None:
    before = data.load().fingerprint
    assert replace(data, **option).load().fingerprint.digest != before.digest  # type: ignore[arg-type]
    assert data.load().fingerprint == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["train.bin", "validation.bin", "tokenizer.json", "manifest.json"])
def test_damaged_data_are_prepared_again(
    name: str, damage: object, data: TextData, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = data.load()
    content = (prepared(cache) / name).read_bytes()
    assert callable(damage)
    damage(prepared(cache) / name)
    capsys.readouterr()
    after = data.load()
    message = capsys.readouterr().err
    assert name in message
    assert "prepared again" in message
    assert (prepared(cache) / name).read_bytes() == content
    assert after.fingerprint == before.fingerprint


def test_a_count_that_was_altered_is_noticed(data: TextData, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = data.load().assets
    manifest = prepared(cache) / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["facts"]["validation"]["bytes"] += 1
    manifest.write_text(json.dumps(content))
    assert data.load().assets == before
    assert "manifest.json does not have the contents that were committed" in capsys.readouterr().err


LOAD = """
import sys
from seedfast.data.text.config import TextData
corpus = TextData(path=sys.argv[1], vocabulary=300, context=16).load()
print(corpus.fingerprint.digest, corpus.train.batch([0])["tokens"].sum().item())
"""
SLOW = """
import sys, time
from seedfast import sealed_folder
seal = sealed_folder.seal
def slow(attempt):
    with open(sys.argv[2], "a") as log:
        log.write("prepared once\\n")
    time.sleep(0.5)
    seal(attempt)
sealed_folder.seal = slow
"""
DIE = """
import os, signal
from seedfast import sealed_folder
sealed_folder.seal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_several_processes_one_prepares_the_data_and_the_others_wait(
    data: TextData, cache: Path, tmp_path: Path
) -> None:
    runs = [run.finish() for run in [python(SLOW + LOAD, data.path, tmp_path / "log") for _ in range(3)]]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert {run.stdout for run in runs} == {
        f"{data.load().fingerprint.digest} {data.load().train.batch([0])['tokens'].sum()}\n"
    }
    assert (tmp_path / "log").read_text() == "prepared once\n"
    prepared(cache)


def test_a_killed_preparation_leaves_only_an_attempt(data: TextData, cache: Path) -> None:
    assert python(DIE + LOAD, data.path).finish().returncode == -signal.SIGKILL
    (left,) = (cache / "text" / UNFINISHED).iterdir()
    assert list(left.rglob("train.bin"))
    replace(data, vocabulary=301).load()
    assert prepared(cache).name != UNFINISHED, "the preparation of other data removes it too"


def test_a_failed_preparation_leaves_nothing(data: TextData, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("seedfast.sealed_folder.seal", full)
        with pytest.raises(OSError, match="No space left"):
            data.load()
    assert [path for path in (cache / "text").iterdir() if path.is_dir()] == []
    data.load()


def test_a_cache_folder_that_cannot_be_created_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache cannot be created .*SEEDFAST_CACHE"):
        cache_folder()


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEEDFAST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "seedfast"


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(257, np.uint16), (65536, np.uint16), (65537, np.uint32), (200_000, np.uint32)]
)
def test_ids_are_stored_in_the_smallest_type(vocabulary: int, kind: type, tmp_path: Path) -> None:
    assert token_type(vocabulary) is kind
    ids = np.array([0, vocabulary - 1, 1], np.uint32)
    with TokenWriter(tmp_path / "ids.bin", token_type(vocabulary)) as writer:
        writer.write(ids)
        writer.write(ids[:1])
    assert writer.count == 4
    assert read_tokens(tmp_path / "ids.bin", token_type(vocabulary)).tolist() == [0, vocabulary - 1, 1, 0]


@pytest.mark.parametrize("alphabet", [65535, 65536])
def test_the_boundary_between_the_types_on_real_text(alphabet: int, write: Writer, cache: Path) -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + alphabet)))
    folder = write({"one.txt": text})
    corpus = TextData(path=str(folder / "one.txt"), tokenizer="characters", context=500).load()
    tokenizer = corpus.assets.tokenizer
    assert tokenizer.size == alphabet + 1
    held_out = round(alphabet * 0.1)
    assert (prepared(cache) / "validation.bin").stat().st_size == (2 if alphabet == 65535 else 4) * (held_out + 1)
    last = corpus.validation.batch([len(corpus.validation) - 1])["tokens"][0].tolist()
    assert tokenizer.decode(last) == text[-501:]
    assert corpus.train.batch([0])["tokens"][0, 0] == alphabet  # end-of-text, the largest id
