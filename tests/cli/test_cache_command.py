"""`seedfast cache`: what the cache holds, and its removal."""

import os
import time
from pathlib import Path

import pytest
from tests.helpers.cli import seedfast
from tests.helpers.processes import python

from seedfast.data.cache import cached_folder, entries
from seedfast.files import UNFINISHED, locked_file

DIE = """
import os, signal, sys
from seedfast.data.cache import cached_folder
def die(folder):
    (folder / "part").write_bytes(b"x" * 500)
    os.kill(os.getpid(), signal.SIGKILL)
cached_folder("c" * 32, die)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a text, images that were last used ten days ago, and the rest of a killed preparation."""
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path))

    def fill(folder: Path) -> dict[str, int]:
        (folder / "train.bin").write_bytes(bytes(2_000_000))
        return {"skipped": 0}

    cached_folder("a" * 32, fill, title="book.txt")
    cached_folder("b" * 32, fill, kind="images", title="pictures")
    long_ago = time.time() - 10 * 86_400
    os.utime(tmp_path / "images" / f"{'b' * 32}.lock", (long_ago, long_ago))
    python(DIE).finish()
    return tmp_path


def test_it_lists_kind_size_last_use_and_source(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("cache") == 0
    first, *others, total = capsys.readouterr().out.splitlines()
    assert first.split() == ["images", "2", "MB", "10", "days", "pictures"], "the longest unused comes first"
    assert {line.split()[0] for line in others} == {"text", "unfinished"}
    assert total.startswith(f"{cache} holds 1 images, 1 text, 1 unfinished: 4 MB")


@pytest.mark.parametrize(
    ("words", "left"),
    [([], set()), (["--kind", "text"], {"images", "unfinished"}), (["--unused-days", "9"], {"text", "unfinished"}),
     (["--kind", "unfinished"], {"images", "text"}), (["--kind", "text", "--unused-days", "9"],
      {"images", "text", "unfinished"})],
)  # fmt: skip
def test_it_clears_by_kind_and_age(words: list[str], left: set[str], cache: Path) -> None:
    assert seedfast("cache", "--clear", *words) == 0
    assert {entry.kind for entry in entries()} == left


def test_an_unknown_kind_is_named(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("cache", "--clear", "--kind", "pictures") == 2
    assert "no entries of the kind pictures; it holds images, text, unfinished" in capsys.readouterr().err
    assert len(entries()) == 3


def test_what_is_being_prepared_stays(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked_file(cache / "text" / f"{'a' * 32}.lock"):
        assert seedfast("cache", "--clear") == 0
    assert [entry.kind for entry in entries()] == ["text"]
    assert "other processes are preparing them" in capsys.readouterr().out


def test_the_cache_of_version_0_1_is_listed_and_cleared(cache: Path) -> None:
    left = cache / "text" / f"{'d' * 32}.tmp-77"
    left.mkdir()
    assert [
        entry.path for entry in entries() if entry.kind == "unfinished" and entry.path.parent.name != UNFINISHED
    ] == [left]
    assert seedfast("cache", "--clear", "--kind", "unfinished") == 0
    assert not left.exists()


def test_an_empty_cache_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "none"))
    assert seedfast("cache") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'none'} holds nothing: 0 bytes\n"
