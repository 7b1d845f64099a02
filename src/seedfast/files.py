"""Durable files: everything that must survive a kill or a power failure is written through here."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict


def sync(path: Path) -> None:
    """fsync a file or a folder (a rename is durable only after an fsync of the folder that holds the name)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` atomically: a reader finds the old file or the new one, never a part."""
    attempt = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    attempt.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(attempt)
    attempt.replace(path)
    sync(path.parent)


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
