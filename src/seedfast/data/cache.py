"""Prepared data in the cache: sealed folders, filled once, verified on every use."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seedfast import sealed_folder
from seedfast.console import say
from seedfast.errors import UserError
from seedfast.files import locked_file
from seedfast.sealed_folder import Manifest

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
    parent.mkdir(exist_ok=True)
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
