"""Folders that are either complete and verifiable, or absent: the commit protocol of checkpoints, caches and exports.

Protocol: write every file into a fresh folder in `.seedfast-unfinished` beside the target, hash the files, write
`manifest.json`, fsync everything, rename the folder to its name, fsync the parent. A process that is killed at any
instant leaves either the whole folder or an attempt that is never read. A committed folder is never written to again.

    PARENT/.seedfast-unfinished/RANDOM/.seedfast-lock  a file that the living writer holds locked
    PARENT/.seedfast-unfinished/RANDOM/NAME/           the folder that becomes PARENT/NAME

`sweep` removes the attempts whose lock is free, which are those of dead processes, and nothing else: no other name says
that a file is unneeded.

The manifest holds the size and the SHA-256 of each file and, under "seal", the SHA-256 of its own other contents.
Hashes are needed because a flipped byte loads silently from safetensors, as from any other format of raw arrays.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.files import UNFINISHED, FileDigest, file_digest, locked_file, sha256, sync, to_json
from seedfast.untrusted import leads_out, plain_path, read_json

MANIFEST = "manifest.json"
_LOCK = ".seedfast-lock"


@dataclass(frozen=True)
class Manifest:
    """The contents of a manifest.

    files: each file by its path relative to the folder; "../NAME" is a file beside the folder. entries: all other keys,
    such as a checkpoint's step. seal: SHA-256 of all of these.
    """

    files: Mapping[str, FileDigest]
    entries: Mapping[str, Any]
    seal: str

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a committed folder. Raises OSError or ValueError if it cannot be read or was altered."""
        content = read_json(folder / MANIFEST)
        try:
            seal = content.pop("seal")
            files = {name: _digest_of(known) for name, known in content["files"].items()}
            actual = _seal_of(content)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"no manifest: {error!r}") from error
        if seal != actual:
            raise AlteredError("its own SHA-256 differs")
        entries = {key: value for key, value in content.items() if key != "files"}
        return Manifest(files, entries, seal)


class AlteredError(ValueError):
    """The manifest is valid JSON, but not as it was committed."""


class Fault(NamedTuple):
    """A file of a sealed folder that is not as it was committed, and how it differs."""

    file: Path
    problem: str


@dataclass(frozen=True)
class Attempt:
    """A folder that is being written.

    entries: keys of the manifest beside "files". outside: files beside the folder that it depends on, by name.
    """

    folder: Path
    entries: dict[str, Any] = field(default_factory=dict)
    outside: dict[str, FileDigest] = field(default_factory=dict)


@contextmanager
def committing(folder: Path) -> Iterator[Attempt]:
    """Write the files of `folder` in the block; at its end they are hashed, sealed and committed in one instant.

    An error in the block, or OSError from the disk, leaves nothing behind.
    """
    with new_folder(folder) as path:
        attempt = Attempt(path)
        yield attempt
        seal(attempt)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """The same without a manifest, for folders whose format belongs to other programs. `folder` is absent or empty.

    Files that the block writes beside its folder are committed too, before it, under their names.
    """
    with _slot(folder.parent) as slot:
        attempt = slot / folder.name
        attempt.mkdir()
        yield attempt
        for path in sorted(attempt.rglob("*"), reverse=True):
            sync(path)
        sync(attempt)
        for path in slot.iterdir():
            if path.name not in (_LOCK, attempt.name):
                sync(path)
                path.replace(folder.parent / path.name)
        attempt.rename(folder)
        sync(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder, which is gone by its name in one instant.

    Raises OSError if it cannot be renamed (it is whole then), or not be removed (`sweep` tries again).
    """
    with _slot(folder.parent) as slot:
        folder.rename(slot / folder.name)
        _remove(slot / folder.name)


def sweep(parent: Path) -> list[OSError]:
    """Remove what killed processes left of folders in `parent`; returns what went wrong, as it has no consequences."""
    unfinished = parent / UNFINISHED
    failed: list[OSError] = []
    if not unfinished.is_dir() or unfinished.is_symlink():
        return failed
    try:
        slots = list(unfinished.iterdir())
    except OSError as error:
        return [error]
    for slot in slots:
        try:
            sweep_one(slot)
        except OSError as error:
            failed.append(error)
    with suppress(OSError):
        unfinished.rmdir()
    return failed


def sweep_one(slot: Path) -> bool:
    """Remove what a killed process left in `.seedfast-unfinished`; False if its process lives. Raises OSError."""
    if (slot / _LOCK).is_file():
        try:
            with locked_file(slot / _LOCK, wait=False):
                _remove_slot(slot)
        except BlockingIOError:
            return False
    elif slot.is_dir():
        with suppress(OSError):  # killed before it had its lock, so it is empty, or it is not an attempt
            slot.rmdir()
    return True


@contextmanager
def _slot(parent: Path) -> Iterator[Path]:
    """A new folder in `parent/.seedfast-unfinished`, which no process sweeps while the block runs; then it is removed.

    What cannot be removed stays in it, for `sweep`.
    """
    unfinished = parent / UNFINISHED
    with ExitStack() as stack:
        slot = None
        while slot is None:
            unfinished.mkdir(parents=True, exist_ok=True)
            if leads_out(unfinished, parent):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(unfinished))
            with suppress(FileNotFoundError):  # another process has tidied up meanwhile
                new = Path(tempfile.mkdtemp(dir=unfinished))
                stack.enter_context(locked_file(new / _LOCK))
                slot = new
        try:
            yield slot
        finally:
            with suppress(OSError):
                _remove_slot(slot)
                unfinished.rmdir()


def _remove_slot(slot: Path) -> None:
    """Remove a slot, its lock last. Raises OSError."""
    for path in slot.iterdir():
        if path.name != _LOCK:
            _remove(path)
    (slot / _LOCK).unlink()
    slot.rmdir()


def _remove(path: Path) -> None:
    """Remove a file, or all of a folder that can be removed. Raises the first OSError."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    failed: list[BaseException] = []
    shutil.rmtree(path, onerror=lambda _call, _path, error: failed.append(error[1]))
    if failed:
        raise failed[0]


def seal(attempt: Attempt) -> None:
    """Write the manifest of a folder whose files are complete."""
    paths = sorted(path for path in attempt.folder.rglob("*") if path.is_file())
    files = {f"../{name}": digest for name, digest in attempt.outside.items()}
    files |= {path.relative_to(attempt.folder).as_posix(): file_digest(path) for path in paths}
    content = {**attempt.entries, "files": files}
    (attempt.folder / MANIFEST).write_text(to_json({**content, "seal": _seal_of(content)}), "utf-8")


def verify(folder: Path) -> Fault | None:
    """The first fault of a committed folder; None if every file is as it was committed."""
    return next(faults(folder), None)


def faults(folder: Path) -> Iterator[Fault]:
    """Every fault of a committed folder, the manifest's first."""
    try:
        manifest = Manifest.read(folder)
    except FileNotFoundError:
        yield Fault(folder / MANIFEST, "is missing")
    except AlteredError:
        yield Fault(folder / MANIFEST, "does not have the contents that were committed")
    except (OSError, ValueError) as error:
        yield Fault(folder / MANIFEST, f"cannot be read ({error})")
    else:
        for name, known in manifest.files.items():
            try:
                path = file_in(folder, name)
            except ValueError as error:
                yield Fault(folder / MANIFEST, f"names a file that is not used ({error})")
                continue
            if problem := _problem(path, known):
                yield Fault(path, problem)


def file_in(folder: Path, name: str) -> Path:
    """The file of a sealed folder that its manifest names: inside it, or "../NAME", beside it.

    Raises ValueError for a name or a link that leads anywhere else, and for anything but a regular file.
    """
    if name.startswith("../") and "/" not in (beside := name.removeprefix("../")):
        return plain_path(folder.parent, beside)
    return plain_path(folder, name)


def _problem(path: Path, known: FileDigest) -> str | None:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != known["size"]:
        return f"has {size} bytes instead of {known['size']}"
    if sha256(path) != known["sha256"]:
        return "does not have the contents that were committed (its SHA-256 differs)"
    return None


def _seal_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _digest_of(known: Any) -> FileDigest:
    """A manifest's entry of a file. Caches of version 0.1 hold the pair [size, SHA-256]."""
    size, digest = (known["size"], known["sha256"]) if isinstance(known, dict) else known
    if not isinstance(size, int) or not isinstance(digest, str):
        raise TypeError(f"{known!r:.60} is no digest of a file")
    return {"size": size, "sha256": digest}
