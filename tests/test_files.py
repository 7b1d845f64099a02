"""A commit replaces a file as a whole; what is no file is written into, and stays."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seedfast.files import commit


def test_a_file_is_replaced_by_another_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    commit(path, "before")
    with path.open() as reader:
        commit(path, b"after")
        assert reader.read() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, content = tmp_path / "pipe", b"x" * 300_000  # more than a pipe holds
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool, os.fdopen(os.open(pipe, os.O_RDWR), "rb") as reader:
        read = pool.submit(reader.read, len(content))
        commit(pipe, content)
        assert read.result(60) == content
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_pipe_that_nobody_reads_is_an_error_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        commit(tmp_path / "pipe", "text")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_stream_of_this_process_is_written_into(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        commit(Path(f"/dev/fd/{file.fileno()}"), "text")
    assert (tmp_path / "file").read_text() == "text"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        commit(tmp_path, "text")
    assert tmp_path.is_dir()
