"""Results of long computations, noted in the cache: what was interrupted continues where it was."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from seedfast.data.cache import cache_folder
from seedfast.files import commit, to_json
from seedfast.version import VERSION


@cache
def code_digest() -> str:
    """A digest of the source of this package, any file of which may shape a result. Read once in a process.

    It is that of the release for all its users; after a change of the code, nothing that the old code gave is found.
    """
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class Note:
    """A file of the cache whose name is a hash of all that its contents depend on."""

    file: Path

    @staticmethod
    def of(kind: str, *facts: Any) -> "Note":
        """kind: the sub-folder of the cache. facts: JSON values; the code of seedfast is always one of them."""
        key = hashlib.sha256(json.dumps([VERSION, code_digest(), *facts], sort_keys=True).encode()).hexdigest()
        return Note(cache_folder() / kind / f"{key}.json")

    def read(self) -> Any:
        """What was noted, as JSON values; None if nothing was, or the file is damaged."""
        try:
            return json.loads(self.file.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def write(self, result: Any) -> None:
        """Note a result, JSON values without NaN and infinity."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        commit(self.file, to_json(result))
