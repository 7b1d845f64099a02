"""The store of prepared data: folders in the cache, made once, committed by one rename, verified on use."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from seedfast.console import say
from seedfast.errors import UserError
from seedfast.files import sha256, sync, to_json

TokenType = type[np.uint16] | type[np.uint32]
_MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """`$SEEDFAST_CACHE`, or ~/.cache/seedfast. Raises UserError if it cannot be made."""
    folder = Path(os.environ.get("SEEDFAST_CACHE") or "~/.cache/seedfast").expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be made ({error.strerror}): set SEEDFAST_CACHE to a folder "
            "that can be written."
        ) from None
    return folder


def token_type(vocabulary: int) -> TokenType:
    """The smallest type that holds the ids 0 … vocabulary-1."""
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
    """The ids of a file that `TokenWriter` wrote, mapped into memory."""
    return np.asarray(np.memmap(path, np.dtype(kind).newbyteorder("<"), mode="r"))


def prepared(key: str, prepare: Callable[[Path], dict[str, Any]], *, kind: str = "text") -> tuple[Path, dict[str, Any]]:
    """The folder in the store with this key, and its facts; `prepare` fills a new folder and returns them.

    kind: the part of the cache that holds it.
    Of several processes that want the same folder one prepares it and the others wait. A folder that is
    damaged is prepared again, and a killed preparation leaves nothing that would be mistaken for a folder.
    """
    store = cache_folder() / kind
    store.mkdir(exist_ok=True)
    folder = store / key
    with _exclusive(store / f"{key}.lock"):
        if folder.exists():
            fault = find_fault(folder)
            if fault is None:
                return folder, _read_manifest(folder)["facts"]
            say(f"The prepared data in {folder} are damaged ({fault}): they are prepared again.")
            shutil.rmtree(folder)
        for left_over in store.glob(f"{key}.tmp-*"):
            shutil.rmtree(left_over)
        attempt = store / f"{key}.tmp-{os.getpid()}"
        attempt.mkdir()
        try:
            facts = prepare(attempt)
            _seal(attempt, facts)
            attempt.rename(folder)
        finally:
            if attempt.exists():
                shutil.rmtree(attempt)
        sync(store)
        return folder, facts


def find_fault(folder: Path) -> str | None:
    """What is wrong with a prepared folder: the first file that is missing or not as it was written."""
    try:
        manifest = _read_manifest(folder)
        seal = manifest.pop("seal")
        if seal != _digest(manifest):
            return f"{_MANIFEST} was altered"
        for name, (size, digest) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if sha256(path) != digest:
                return f"{name} was altered"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError):
        return f"{_MANIFEST} cannot be read"
    return None


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each prepared file by name, as the manifest has them."""
    return {name: digest for name, (_, digest) in _read_manifest(folder)["files"].items()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
    return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _seal(folder: Path, facts: dict[str, Any]) -> None:
    files = {path.name: (path.stat().st_size, sha256(path)) for path in sorted(folder.iterdir())}
    for name in files:
        sync(folder / name)
    manifest = {"files": files, "facts": facts}
    (folder / _MANIFEST).write_text(to_json({**manifest, "seal": _digest(manifest)}), "utf-8")
    sync(folder / _MANIFEST)
    sync(folder)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Wait for a lock file, which the kernel frees when its holder dies, however it dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another process that is preparing the same data.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
