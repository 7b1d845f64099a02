"""Files of samples, in a folder that may hold other files: only what samples wrote there is ever replaced or removed.

A name is no proof: the folder's record holds the SHA-256 of each file that was written. A file that is not in it, or
has changed since, belongs to the user.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from seedfast.console import abbreviate
from seedfast.errors import UserError
from seedfast.files import commit, sha256, to_json

RECORD = ".samples.json"
"""The record: the digest of each file by its name."""


def write(folder: Path, contents: Mapping[str, bytes], *, replace: bool) -> list[Path]:
    """Write files into an existing folder, in place of those of earlier samples, whose labels could be mistaken.

    contents: of each file by its name. replace: whether a file of the user that has one of these names is replaced, as
    in a run's own folder. Raises UserError otherwise, before anything is changed.
    """
    written = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    present = {name: _digest(folder / name) for name in contents if os.path.lexists(folder / name)}
    record = _record(folder)
    foreign = [name for name, digest in present.items() if digest not in (record.get(name, ""), written[name])]
    if foreign and not replace:
        raise UserError(
            f"{folder} holds {abbreviate(foreign)}, which no samples wrote or which changed since, and would be "
            "replaced: move it, or name another folder with --out."
        )
    for name, digest in record.items():
        if _digest(folder / name) == digest:
            (folder / name).unlink()
    commit(folder / RECORD, to_json(written))
    for name, content in contents.items():
        commit(folder / name, content)
    return [folder / name for name in contents]


def _digest(path: Path) -> str | None:
    """The digest of a regular file; None for a link or anything else."""
    return sha256(path) if path.is_file() and not path.is_symlink() else None


def _record(folder: Path) -> dict[str, str]:
    """The record of a folder. Entries that are no plain names, and a record that cannot be read, count for nothing."""
    try:
        content = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: digest for name, digest in entries if Path(name).name == name and isinstance(digest, str)}
