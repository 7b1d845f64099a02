"""Zip and tar archives, also in parts, unpacked within bounds; every way in which they fail is a sentence."""

import io
import lzma
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from seedfast.errors import UserError

_RATIO, _HARMLESS = 100, 200_000_000
"""An archive may unpack to so many times its size, or to so many bytes. Pictures hardly shrink at all."""

_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_PART = re.compile(
    r"(?P<name>.*?)(?P<mark>\.z(?=\d\d$)|\.(?=\d{3}$)|[._-]?part[._-]?)(?P<number>\d{1,3})", re.IGNORECASE
)
_LETTERS = re.compile(r"(?P<name>.*\.(?:zip|tar|tgz|gz))\.a[a-z]", re.IGNORECASE)
"""A part of an archive: name.z01, name.zip.001 or name_part00; name.tar.gz.aa, as `split` writes."""

_FAILURES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # also NotImplementedError
    ValueError,
)


def is_archive(path: Path) -> bool:
    """Whether a file is an archive by its name, or the first of its parts; further parts are not."""
    if path.name.lower().endswith(_ENDINGS) or _LETTERS.fullmatch(path.name) or _PART.fullmatch(path.name):
        return parts(path)[0] == path
    return False


def parts(path: Path) -> list[Path]:
    """The files that make up an archive, in order, given any of them: usually the file alone.

    Raises UserError if one in the middle is missing.
    """
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    if path.suffix.lower() == ".zip":
        first = [each for each in beside if each.name.lower() == f"{path.stem}.z01".lower()]
        return [*parts(first[0])[:-1], path] if first else [path]
    if letters := _LETTERS.fullmatch(path.name):
        return [each for each in beside if (it := _LETTERS.fullmatch(each.name)) and it["name"] == letters["name"]]
    part = _PART.fullmatch(path.name)
    if not part:
        return [path]
    found = {
        int(it["number"]): each
        for each in beside
        if (it := _PART.fullmatch(each.name)) and (it["name"], it["mark"]) == (part["name"], part["mark"])
    }
    for number in range(min(1, *found), max(found)):
        if number not in found and number:
            raise UserError(f"Part {number} of the archive {path} is missing: there are {_names(found.values())}.")
    ordered = [found[number] for number in sorted(found)]
    if part["mark"].lower() != ".z":
        return ordered
    last = [each for each in beside if each.name.lower() == f"{part['name']}.zip".lower()]
    if not last:
        raise UserError(f"The last part of the archive {path}, {part['name']}.zip, is missing.")
    return [*ordered, last[0]]


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))


class Budget:
    """The bytes that may still be unpacked; one for an archive with all archives inside it."""

    def __init__(self, packed: int) -> None:
        """packed: the size of what is unpacked."""
        self._packed = packed
        self._left = max(_RATIO * packed, _HARMLESS)

    def take(self, size: int, archive: Path, folder: Path) -> None:
        """Count `size` bytes that are about to be written into `folder`. Raises UserError if they are too many."""
        self._left -= size
        if self._left < 0:
            raise UserError(
                f"{archive} unpacks to more than {_RATIO} times its {self._packed:,} bytes, as an archive bomb does: "
                "if you trust it, unpack it yourself and name the folder."
            )
        if size > (free := shutil.disk_usage(folder).free):
            raise UserError(f"{archive} unpacks to {size:,} bytes, and the disk has {free:,} left: free some.")


def names(archive: Path) -> list[str]:
    """The files in a zip archive, without their folders; none for a tar, which has no list. Raises UserError."""
    with _reading(archive) as file:
        if not zipfile.is_zipfile(file):
            return []
        with zipfile.ZipFile(file) as zipped:
            return [Path(info.filename).name for info in _members(zipped)]


def unpack(archive: Path, folder: Path, budget: Budget) -> None:
    """Unpack an archive into an existing folder.

    Raises UserError for one that is damaged, incomplete, encrypted or compressed by an unknown method, or would unpack
    to absurd sizes or more than the disk can hold.
    """
    with _reading(archive) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as zipped:
                _unpack_zip(zipped, archive, folder, budget)
            return
        file.seek(0)
        if file.read(4) == b"PK\3\4":
            raise UserError(f"{archive} is cut off: the list of files at its end is missing. Download it again.")
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            for member in tar:
                budget.take(member.size + tarfile.BLOCKSIZE, archive, folder)
                tar.extract(member, folder, filter="data")


@contextmanager
def _reading(archive: Path) -> Iterator[IO[bytes]]:
    """The bytes of an archive, of all its parts; its failures are raised as UserError."""
    try:
        with io.BufferedReader(_Joined(parts(archive))) as file:
            yield file
    except UserError:
        raise
    except tarfile.ReadError as error:
        raise UserError(f"{archive} is not a zip or tar archive, or it is cut off ({error}).") from None
    except tarfile.FilterError as error:
        raise UserError(
            f"{archive} holds a file that leads out of the folder into which it is unpacked ({error}): do not trust it."
        ) from None
    except _FAILURES as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error or type(error).__name__}): it is damaged or cut off. Download it "
            "again, or unpack it with another program and name the folder."
        ) from None


def _members(zipped: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in a zip, without those that macOS adds."""
    return [each for each in zipped.infolist() if not each.is_dir() and "__MACOSX" not in Path(each.filename).parts]


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _unpack_zip(zipped: zipfile.ZipFile, archive: Path, folder: Path, budget: Budget) -> None:
    members, files = _members(zipped), parts(archive)
    otherwise = "unpack it with another program, such as 7z, and name the folder"
    if any(each.flag_bits & 1 for each in members):
        raise UserError(f"{archive} is encrypted: {otherwise}.")
    if unknown := {each.compress_type for each in members} - {*_METHODS}:
        method = "Deflate64" if 9 in unknown else f"the method {min(unknown)}"
        raise UserError(f"{archive} is compressed by {method}, which Python cannot read: {otherwise}.")
    budget.take(sum(each.file_size for each in members), archive, folder)
    if len(files) > 1 and files[-1].suffix.lower() == ".zip":
        _join_volumes(zipped, [path.stat().st_size for path in files])
    zipped.extractall(folder, members)


def _join_volumes(zipped: zipfile.ZipFile, sizes: Sequence[int]) -> None:
    """Correct the places of the files in an archive of volumes (name.z01 … name.zip): they count from a volume's start.

    `zipfile` reads such an archive as one that has something before it (APPNOTE.TXT of PKWARE, 4.3.12 and 4.3.16).
    """
    assert zipped.fp is not None
    zipped.fp.seek(-min(sum(sizes), 22 + 0xFFFF), io.SEEK_END)
    end = zipped.fp.read()
    (listed,) = struct.unpack_from("<I", end, end.rindex(b"PK\5\6") + 16)
    shift = zipped.start_dir - listed  # what zipfile has added to every place
    starts = [0, *accumulate(sizes)]
    for each in zipped.infolist():
        if each.volume >= len(sizes):
            raise ValueError(f"a file begins in part {each.volume + 1} of {len(sizes)}")
        each.header_offset += starts[each.volume] - shift
        if hasattr(each, "_end_offset"):  # found before from the wrong places, to detect files that overlap
            each._end_offset = None


class _Joined(io.RawIOBase):
    """Several files, read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._ends = list(accumulate(path.stat().st_size for path in paths))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._ends[-1]}[whence]
        if base + offset < 0:
            raise OSError("a place before the beginning")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._place)
        if number == len(self._files):
            return 0
        file, end = self._files[number], self._ends[number]
        file.seek(self._place - (self._ends[number - 1] if number else 0))
        content = file.read(min(len(buffer), end - self._place))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
