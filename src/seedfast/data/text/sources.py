"""Sources of text: the standard library, a file, a folder. A source yields documents."""

import codecs
import os
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Literal

from seedfast.console import abbreviate
from seedfast.data.fingerprint import signature
from seedfast.data.prepare import SourceFiles
from seedfast.data.text.rows import READERS, Row, json_rows, reader_of
from seedfast.errors import UserError

EXCLUDE = (".*", "__pycache__", "node_modules")
"""Left out of every folder by default: hidden and generated files."""

_TEXT = "txt text md markdown rst tex adoc org"
_CODE = (
    "py pyi pyx c h cc cpp cxx hh hpp cu cuh m mm java kt scala groovy go rs js jsx mjs cjs ts tsx vue "
    "svelte rb php pl pm swift cs fs hs ml mli lua r jl sh bash zsh ps1 sql html css scss ex exs erl clj "
    "el lisp scm rkt vim asm s f f90 f95 zig dart nim proto cmake"
)
_ROWS = " ".join(ending.removeprefix(".") for ending in READERS)
_PYTHON_EXCLUDE = (
    *EXCLUDE,
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
)
_BLOCK = 1 << 18  # bytes of a file that are decoded together

Mode = Literal["auto", "text", "code"]


@dataclass(frozen=True)
class Document:
    """One text.

    name: for messages. key: the key of its random assignment to a split. texts: its parts, read lazily and once.
    """

    name: str
    key: str | int
    texts: Iterable[str]


@dataclass(frozen=True)
class TextSource(SourceFiles, ABC):
    """Documents in a fixed order. is_one_text: a single text, which is split by position, not by document."""

    _: KW_ONLY
    is_one_text: bool = False

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents. Raises UserError on an invalid row."""

    def first_row(self) -> Row | None:
        """The first row, if the documents are rows with fields; else None."""
        return None

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Each row's name and fields, where `first_row` returns one."""
        raise NotImplementedError(f"{self.title} has no rows")


@dataclass(frozen=True)
class TextFileSource(TextSource):
    """Files: each is a document, or each of its rows is one. field: of JSONL and Parquet, where the text is."""

    field: str = "text"

    def documents(self) -> Iterator[Document]:
        for name in self.names:
            path = self.root / name
            read = reader_of(path)
            if read is None:
                yield Document(name, name, _read_text(path))
                continue
            for number, text in read(path, self.field):
                # In a single file the key of a row is its number: the split does not change if the file is renamed.
                key = number if len(self.names) == 1 else f"{name}:{number}"
                yield Document(f"{name}:{number}", key, (text,))

    def first_row(self) -> Row | None:
        if any(Path(name).suffix.lower() != ".jsonl" for name in self.names):
            return None
        rows = chain.from_iterable(json_rows(self.root / name) for name in self.names)
        return next((row for _, row in rows), None)

    def rows(self) -> Iterator[tuple[str, Row]]:
        for name in self.names:
            for number, row in json_rows(self.root / name):
                yield f"{name}:{number}", row


def python_source() -> TextSource:
    """The source code of the running interpreter's standard library: about 11 MB, on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    names, skipped = _scan(root, ("*.py",), _PYTHON_EXCLUDE)
    return TextFileSource("python (the standard library's source)", root, tuple(names), skipped=tuple(skipped))


def file_source(path: Path, field: str) -> TextSource:
    """One file. Raises UserError if it cannot be read."""
    if not signature(path):
        raise UserError(f"The file {path} cannot be read: check its permissions.")
    return TextFileSource(str(path), path.parent, (path.name,), is_one_text=reader_of(path) is None, field=field)


def folder_source(root: Path, include: Sequence[str], exclude: Sequence[str], mode: Mode, field: str) -> TextSource:
    """The files of a folder that match `include` (or, if that is empty, the usual endings of `mode`).

    A pattern without a slash is matched against names (of files, and for `exclude` of folders too), a pattern with a
    slash against the path inside the folder. Raises UserError if nothing matches.
    """
    endings = {"text": f"{_TEXT} {_ROWS}", "code": _CODE, "auto": f"{_TEXT} {_CODE}"}[mode]
    names, skipped = _scan(root, include or [f"*.{ending}" for ending in endings.split()], exclude)
    if not names and not include and mode == "auto":
        names, skipped = _scan(root, [f"*.{ending}" for ending in _ROWS.split()], exclude)
    if not names:
        condition = f"data.include={tuple(include)}" if include else f'the endings of data.mode="{mode}"'
        present = {Path(name).suffix or Path(name).name for name in _scan(root, ("*",), exclude)[0]}
        found = f"there are {abbreviate(sorted(present))}" if present else "it holds no others"
        raise UserError(
            f"No file in {root} matches {condition} (data.exclude={tuple(exclude)}; {found}): "
            "name others in data.include."
        )
    for name in names:
        if reader_of(root / name) and not signature(root / name):
            raise UserError(f"The file {root / name} cannot be read: check its permissions, or exclude it.")
    return TextFileSource(str(root), root, tuple(names), skipped=tuple(skipped), field=field)


def _scan(root: Path, include: Sequence[str], exclude: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths inside `root` of the matching files, sorted, and the folders that could not be entered."""
    names: list[str] = []
    skipped: list[str] = []

    def note(error: OSError) -> None:
        skipped.append(f"{Path(error.filename).relative_to(root).as_posix()} (unreadable folder)")

    for folder, folders, files in os.walk(root, onerror=note):
        inside = Path(folder).relative_to(root)
        paths = [path for name in folders if not _matches(path := (inside / name).as_posix(), exclude)]
        skipped += [f"{path} (link to a folder)" for path in paths if (root / path).is_symlink()]
        folders[:] = [Path(path).name for path in paths]  # os.walk enters only these
        files_here = [(inside / name).as_posix() for name in files]
        names += [path for path in files_here if _matches(path, include) and not _matches(path, exclude)]
    return sorted(names), sorted(skipped)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def _read_text(path: Path) -> Iterator[str]:
    """The characters of a file exactly as they are: no newline is translated."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
