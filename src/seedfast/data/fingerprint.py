"""The identity of files by content, known without reading again what has not been touched."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from seedfast.console import Bar
from seedfast.data.cache import cache_folder
from seedfast.files import commit, sha256, to_json

UNREADABLE = "unreadable"
"""Stands for the content of a file that could not be read."""

Signature = tuple[int, ...]
"""What the file system says of a file: size, modification and change time (ns), inode. Empty: unreadable."""

_RACY = 2_000_000_000  # ns: a file this young may change again within one tick of the file system's clock


def signature(path: Path) -> Signature:
    """The file's signature, or () if there is no readable file."""
    if not os.access(path, os.R_OK):
        return ()
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def hash_files(root: Path, signatures: Mapping[str, Signature]) -> dict[str, str]:
    """SHA-256 of each file root/name, remembered in the cache under its signature."""
    memory = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    known = _read(memory)
    hashes: dict[str, str] = {}
    remembered: dict[str, list[object]] = {}
    unknown = [name for name, seen in signatures.items() if seen and known.get(name, [None])[0] != list(seen)]
    with Bar("Hashing", sum(signatures[name][0] for name in unknown)) as bar:
        now = time.time_ns()
        for name, seen in signatures.items():
            if not seen:
                hashes[name] = UNREADABLE
                continue
            if known.get(name, [None])[0] == list(seen):
                hashes[name] = str(known[name][1])
            else:
                hashes[name] = sha256(root / name)
                bar.advance(seen[0])
            if now - max(seen[1], seen[2]) > _RACY:
                remembered[name] = [list(seen), hashes[name]]
    if remembered != known:
        memory.parent.mkdir(parents=True, exist_ok=True)
        commit(memory, to_json(remembered))
    return hashes


def _read(memory: Path) -> dict[str, list[object]]:
    """What is remembered. A memory that was damaged costs a second reading of the files, nothing else."""
    try:
        content: dict[str, list[object]] = json.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content
