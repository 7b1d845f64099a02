"""Prepared data in the cache: sealed folders, filled once, verified on every use."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from seedfast import sealed_folder
from seedfast.console import say
from seedfast.errors import UserError
from seedfast.files import UNFINISHED, locked_file, tree_size
from seedfast.sealed_folder import Manifest

_ATTEMPT_0_1 = re.compile(r"[0-9a-f]+\.tmp-\d+")

TokenType = type[np.uint16] | type[np.uint32]


def cache_folder() -> Path:
    """`$SEEDFAST_CACHE`, or ~/.cache/seedfast, created if missing. Raises UserError if that fails."""
    folder = Path(os.environ.get("SEEDFAST_CACHE") or "~/.cache/seedfast").expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be created ({error.strerror}): set SEEDFAST_CACHE to a writable folder."
        ) from None
    return folder


def token_type(vocabulary: int) -> TokenType:
    """The smallest integer type that holds the ids 0 … vocabulary-1."""
    return np.uint16 if vocabulary <= 1 << 16 else np.uint32


class TokenWriter:
    """Appends token ids to a new file."""

    def __init__(self, path: Path, kind: TokenType) -> None:
        self._file = path.open("xb")
        self._kind = kind
        self.count = 0

    def write(self, ids: npt.NDArray[np.integer]) -> None:
        """Append ids [N]."""
        self._file.write(ids.astype(np.dtype(self._kind).newbyteorder("<")).data)
        self.count += len(ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_tokens(path: Path, kind: TokenType) -> npt.NDArray[np.unsignedinteger]:
    """The ids in a file that `TokenWriter` wrote, memory-mapped."""
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, np.dtype(kind).newbyteorder("<"), mode="r"))


def cached_folder(
    key: str, fill: Callable[[Path], dict[str, Any]], *, kind: str = "text", title: str = ""
) -> tuple[Path, dict[str, Any]]:
    """The folder with this key in the cache, and its summary; `fill` writes a missing folder and returns the summary.

    kind: the sub-folder of the cache. title: where the data comes from, for `seedfast cache`. Of several processes that
    need the same folder, one fills it and the others wait. A damaged folder is filled again. A killed process leaves
    nothing that is mistaken for a folder, and the next preparation removes it.
    """
    parent = cache_folder() / kind
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / key
    with _exclusive(parent / f"{key}.lock") as lock:
        os.utime(lock)  # when the folder was used
        if folder.exists():
            fault = sealed_folder.verify(folder)
            if fault is None:
                return folder, Manifest.read(folder).entries["facts"]
            say(f"The prepared data in {folder} is damaged ({fault.file.name} {fault.problem}): it is prepared again.")
            shutil.rmtree(folder)
        sealed_folder.sweep(parent)
        with sealed_folder.committing(folder) as attempt:
            attempt.entries["title"] = title
            summary = attempt.entries["facts"] = fill(attempt.folder)
        return folder, summary


class Entry(NamedTuple):
    """A prepared folder in the cache, or what killed processes left (kind "unfinished").

    title: where the data comes from; empty where it is not known. used: time of the last use, in seconds since 1970.
    """

    kind: str
    path: Path
    title: str
    size: int
    used: float


def entries() -> list[Entry]:
    """What the cache holds, the longest unused first."""
    found = []
    for parent in (path for path in cache_folder().iterdir() if path.is_dir()):
        for path in parent.iterdir():
            if path.name == UNFINISHED or _ATTEMPT_0_1.fullmatch(path.name):
                for each in _attempts(path):
                    found.append(Entry("unfinished", each, "", tree_size(each), each.stat().st_mtime))
            elif path.is_dir() or path.suffix == ".json":  # a prepared folder, or hashes of the files of a source
                lock = parent / f"{path.name}.lock"
                used = (lock if lock.exists() else path).stat().st_mtime
                found.append(Entry(parent.name, path, _title(path), tree_size(path), used))
    return sorted(found, key=lambda entry: entry.used)


def clear(entry: Entry) -> bool:
    """Remove an entry; False if another process is preparing it. Raises OSError.

    A training that uses the data has its files open, so it is not disturbed.
    """
    key = entry.path.name.partition(".tmp-")[0]
    lock = entry.path.parent / f"{key}.lock"
    try:
        if entry.path.parent.name == UNFINISHED:
            return sealed_folder.sweep_one(entry.path)
        with locked_file(lock, wait=False):
            if entry.path.is_dir():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink(missing_ok=True)
            lock.unlink()
    except BlockingIOError:
        return False
    return True


def _attempts(path: Path) -> Iterator[Path]:
    """The attempts: of version 0.1 the path itself, otherwise what it holds."""
    yield from path.iterdir() if path.name == UNFINISHED else (path,)


def _title(path: Path) -> str:
    """The title in a folder's manifest; empty if there is none (version 0.1 wrote none)."""
    try:
        return str(Manifest.read(path).entries.get("title", "")) if path.is_dir() else ""
    except (OSError, ValueError):
        return ""


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a cached folder, by name, from its manifest."""
    return {name: digest["sha256"] for name, digest in Manifest.read(folder).files.items()}


@contextmanager
def _exclusive(path: Path) -> Iterator[int]:
    """Hold a lock file, waiting for it if necessary. The kernel releases the lock when its holder dies."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked_file(path, wait=False))
        except BlockingIOError:
            say("Waiting for another process that is preparing the same data.")
            lock = stack.enter_context(locked_file(path))
        yield lock
