"""SHA-256 of files, read again only if a file's size, times or inode have changed."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seedfast.console import Bar
from seedfast.data.cache import cache_folder
from seedfast.files import commit, sha256, to_json

UNREADABLE = "unreadable"
"""The digest of a file that could not be read."""

Signature = tuple[int, ...]
"""Size, modification time and change time (ns), and inode of a file; empty if it is unreadable."""

_THREADS, _TOGETHER = 4, 256  # files that are hashed at once, and that are handed to the threads together
_PAUSE = 10.0  # seconds of hashing after which what is known is stored
_RACY = 2_000_000_000  # ns: a file this young may change again within one tick of the file system's clock


def signature(path: Path) -> Signature:
    """The file's signature; () if it is missing, unreadable, or no regular file (reading a pipe may never end)."""
    if not os.access(path, os.R_OK):
        return ()
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def hash_files(root: Path, signatures: Mapping[str, Signature]) -> dict[str, str]:
    """SHA-256 of each file root/name. The cache stores the hashes with the signatures, also if this call is killed."""
    store = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    known = _read(store)
    hashes, stored = dict[str, str](), dict[str, list[object]]()
    now = time.time_ns()

    def keep(name: str, digest: str) -> None:
        hashes[name], signed = digest, signatures[name]
        if now - max(signed[1], signed[2]) > _RACY:
            stored[name] = [list(signed), digest]

    unknown: list[str] = []
    for name, signed in signatures.items():
        if not signed:
            hashes[name] = UNREADABLE
        elif known.get(name, [None])[0] == list(signed):
            keep(name, str(known[name][1]))
        else:
            unknown.append(name)
    saved = time.monotonic()
    with Bar("Hashing", sum(signatures[name][0] for name in unknown)) as bar, ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(unknown), _TOGETHER):
            names = unknown[start : start + _TOGETHER]
            for name, digest in zip(names, pool.map(lambda name: sha256(root / name), names), strict=True):
                keep(name, digest)
                bar.advance(signatures[name][0])
                if time.monotonic() - saved > _PAUSE:
                    _write(store, stored)
                    saved = time.monotonic()
    if stored != known:
        _write(store, stored)
    return {name: hashes[name] for name in signatures}


def _write(store: Path, stored: Mapping[str, list[object]]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    commit(store, to_json(stored))


def _read(store: Path) -> dict[str, list[object]]:
    """The stored hashes. If the file is damaged, all files are hashed again."""
    try:
        content: dict[str, list[object]] = json.loads(store.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content
