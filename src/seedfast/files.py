"""Durable files: everything that must survive a kill or a power failure is written through here."""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

UNFINISHED = ".seedfast-unfinished"
"""What is being written has this name, as a folder or as the end of a file's name, until it is committed."""


_STREAMS = Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")


def sync(path: Path) -> None:
    """fsync a file or a folder (a rename is durable only after an fsync of the folder that holds the name)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_file(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock of a file, which is created if missing; yields its descriptor.

    The kernel releases the lock when its holder dies. Another process may rename or remove the file meanwhile: the lock
    that is held is that of the file which has this name. A link is not followed.
    Raises BlockingIOError if another process holds it and `wait` is false; OSError if it cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether a path is still that of an open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def commit(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` atomically: a reader finds the old file or the new one, never a part.

    What a killed process leaves is overwritten by the next commit of the same path. An error leaves nothing.
    A device, a pipe or a stream of this process (/dev/stdout) is written into, and stays.
    """
    if _is_stream(path):
        _write_into(path, content.encode() if isinstance(content, str) else content)
        return
    attempt = path.with_name(path.name + UNFINISHED)
    data = content.encode() if isinstance(content, str) else content
    with locked_file(attempt) as descriptor:
        try:
            os.ftruncate(descriptor, 0)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
            attempt.replace(path)
        except BaseException:
            attempt.unlink(missing_ok=True)
            raise
    sync(path.parent)


def _is_stream(path: Path) -> bool:
    """Whether a path is there and is no file that could be replaced."""
    return path.exists() and (not path.is_file() or path.absolute().parent in _STREAMS)


def _write_into(path: Path, data: bytes) -> None:
    """Raises OSError for a pipe that nobody reads, for which one would wait, and for a folder."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def to_json(value: Any) -> str:
    """JSON with sorted keys. Raises ValueError for NaN and infinity, which standard JSON cannot hold."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """A JSON value with None for each number in it that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileDigest(TypedDict):
    """The identity of a file: its length in bytes and the SHA-256 of its contents."""

    size: int
    sha256: str


def file_digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed.

    What is removed meanwhile, by a training that tidies its folder, counts nothing.
    """
    files = (Path(at, name) for at, _, names in os.walk(path) for name in names) if path.is_dir() else (path,)
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total
