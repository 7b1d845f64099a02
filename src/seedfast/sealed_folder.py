"""Folders that are either complete and verifiable, or absent: the commit protocol of checkpoints, caches and exports.

Protocol: write every file into a fresh folder `NAME.tmp-PID` beside the target, hash the files, write `manifest.json`,
fsync everything, rename the folder to NAME, fsync the parent. A process that is killed at any instant leaves either the
whole folder or an attempt that is never read. A committed folder is never written to again.

The manifest holds the size and the SHA-256 of each file and, under "seal", the SHA-256 of its own other contents.
Hashes are needed because a flipped byte loads silently from safetensors, as from any other format of raw arrays.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.files import FileDigest, file_digest, sha256, sync, to_json

MANIFEST = "manifest.json"
_ATTEMPT = re.compile(r"\.tmp-\d+$")


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
        try:
            content = json.loads((folder / MANIFEST).read_bytes())
            seal, files = content.pop("seal"), content["files"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no manifest: {error!r}") from error
        if seal != _seal_of(content):
            raise AlteredError("its own SHA-256 differs")
        entries = {key: value for key, value in content.items() if key != "files"}
        return Manifest({name: _digest_of(known) for name, known in files.items()}, entries, seal)


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
    """The same without a manifest, for folders whose format belongs to other programs. `folder` is absent or empty."""
    attempt = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    if attempt.exists():  # from a killed process that had the same id
        shutil.rmtree(attempt)
    attempt.mkdir(parents=True)
    try:
        yield attempt
        for path in sorted(attempt.rglob("*"), reverse=True):
            sync(path)
        sync(attempt)
        attempt.rename(folder)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    sync(folder.parent)


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
            path = Path(os.path.normpath(folder / name))
            if problem := _problem(path, known):
                yield Fault(path, problem)


def attempts(parent: Path, name: str = "*") -> list[Path]:
    """The attempts in a folder that killed processes left behind (of the target `name`, if given)."""
    return [path for path in parent.glob(f"{name}.tmp-*") if _ATTEMPT.search(path.name)]


def is_attempt(path: Path) -> bool:
    """Whether a path is an attempt or inside one."""
    return any(_ATTEMPT.search(part) for part in path.parts)


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
    return {"size": size, "sha256": digest}
