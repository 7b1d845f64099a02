"""What is done of work that takes long: the results of each part, appended to a file beside the result, and kept if the
work is interrupted."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from seedfast.errors import UserError
from seedfast.evaluate.codec.entropy import DamagedError, ImpossibleError
from seedfast.files import locked_file

SUFFIX = ".seedfast-progress"
_KEY, _CHECK, _LENGTH = 16, 8, 8  # bytes


class Journal:
    """Records that are appended to a file, each with its length and a checksum; the file begins with a key."""

    def __init__(self, file: IO[bytes], key: str) -> None:
        """Continue the file of the same key up to its last whole record; begin it anew where its key is another."""
        self._file, self._places = file, list[tuple[int, int]]()
        named = hashlib.blake2b(key.encode(), digest_size=_KEY).digest()
        file.seek(0)
        if file.read(_KEY) == named:
            self._end = _KEY
            while self._found():
                pass
        else:
            file.seek(0)
            file.truncate()
            file.write(named)
            self._end = _KEY
        file.truncate(self._end)

    def _found(self) -> bool:
        """Whether a whole record comes next, which is then known."""
        self._file.seek(self._end)
        head = self._file.read(_LENGTH + _CHECK)
        length = int.from_bytes(head[:_LENGTH], "little")
        start = self._end + len(head)
        if len(head) < _LENGTH + _CHECK or start + length > os.fstat(self._file.fileno()).st_size:
            return False
        if _check(self._file.read(length)) != head[_LENGTH:]:
            return False
        self._places.append((start, length))
        self._end = start + length
        return True

    def append(self, record: bytes) -> None:
        """Add a record."""
        head = len(record).to_bytes(_LENGTH, "little") + _check(record)
        self._file.seek(self._end)
        self._file.write(head + record)
        self._file.flush()
        self._places.append((self._end + len(head), len(record)))
        self._end += len(head) + len(record)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> bytes:
        start, length = self._places[number]
        self._file.seek(start)
        return self._file.read(length)


def _check(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=_CHECK).digest()


@contextmanager
def journal(result: Path | None, key: str, *, busy: str | None = None) -> Iterator[Journal]:
    """The journal beside a result, which is removed when the work is done, and kept when it is interrupted.

    key: names the work exactly. result: None for one that nothing continues. Raises UserError if another process
    writes the same result; busy: its sentence.
    """
    if result is None:
        with TemporaryFile() as file:
            yield Journal(file, key)
        return
    path = result.with_name(result.name + SUFFIX)
    try:
        with locked_file(path, wait=False) as descriptor, os.fdopen(descriptor, "r+b", closefd=False) as file:
            try:
                yield Journal(file, key)
            except (DamagedError, ImpossibleError):
                path.unlink()
                raise
            path.unlink()
    except BlockingIOError:
        raise UserError(busy or f"Another process is writing {result}: wait for it, or name another file.") from None
