"""The journal of a run while it grows: each read parses only what was appended since the one before."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from seedfast.run_folder.journal import parsed
from seedfast.untrusted import regular

_MOST = 256 << 20  # bytes of one read; the next one goes on from there


class Tail:
    """Reads a journal from where the last read ended."""

    def __init__(self, run_folder: Path) -> None:
        self._folder, self._path = run_folder, run_folder / "journal.jsonl"
        self._offset = 0
        self._last = b""  # the line that ends at the offset

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the journal was cut or replaced, and the new entries: after a cut, all of them from the first.

        A resumed run cuts its journal to the checkpoint and writes the same lines again, with other times. Lines that
        are no entries are skipped, and an incomplete last line waits for the next read.
        """
        try:
            with regular(self._path, self._folder).open("rb") as file:
                is_cut = self._offset > 0 and not self._continues(file)
                if is_cut:
                    self._offset, self._last = 0, b""
                file.seek(self._offset)
                # Python allocates what it is asked to read, so no more than the file is asked for.
                content = file.read(max(0, min(_MOST, os.fstat(file.fileno()).st_size - self._offset)))
        except (OSError, ValueError):
            is_cut, content = self._offset > 0, b""
            self._offset, self._last = 0, b""
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines(keepends=True)
        if lines:
            self._offset, self._last = self._offset + end, lines[-1]
        return is_cut, [entry for line in lines if (entry := _entry(line))]

    def _continues(self, file: Any) -> bool:
        """Whether the line that was read last is still where it was."""
        file.seek(self._offset - len(self._last))
        found: bytes = file.read(len(self._last))
        return found == self._last


def _entry(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        return parsed(line)
    return None
