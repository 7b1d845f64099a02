"""Where text comes from: the standard library, a file, a folder, JSONL, Parquet. Sources yield documents."""

import codecs
import json
import os
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from seedfast.console import abbreviate
from seedfast.data.fingerprint import Signature, signature
from seedfast.errors import UserError

EXCLUDE = (".*", "__pycache__", "node_modules")
"""Left out of every folder unless asked for: hidden and generated."""

_TEXT = "txt text md markdown rst tex adoc org"
_CODE = (
    "py pyi pyx c h cc cpp cxx hh hpp cu cuh m mm java kt scala groovy go rs js jsx mjs cjs ts tsx vue "
    "svelte rb php pl pm swift cs fs hs ml mli lua r jl sh bash zsh ps1 sql html css scss ex exs erl clj "
    "el lisp scm rkt vim asm s f f90 f95 zig dart nim proto cmake"
)
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
_ROW_ENDINGS = "jsonl parquet"
_ROWS = tuple(f".{ending}" for ending in _ROW_ENDINGS.split())
_BLOCK = 1 << 18  # bytes of a file that are decoded together

Mode = Literal["auto", "text", "code"]


@dataclass(frozen=True)
class Document:
    """One text.

    name: for people. key: what its side of the split depends on. texts: its parts, read lazily and once.
    """

    name: str
    key: str | int
    texts: Iterable[str]


@dataclass(frozen=True)
class Source(ABC):
    """Documents in a fixed order, made of the files root/name for each of the names.

    title: what the messages call it. plain: one text that is split by place, not by document.
    skips: whether a file that is no readable text is left out (and reported) instead of being refused.
    skipped: what was left out when the names were collected.
    """

    title: str
    root: Path
    names: tuple[str, ...]
    plain: bool = False
    skips: bool = False
    skipped: tuple[str, ...] = ()

    def signatures(self) -> dict[str, Signature]:
        """What the file system says of each file."""
        return {name: signature(self.root / name) for name in self.names}

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents. Raises UserError on a row that is not as it should be."""


@dataclass(frozen=True)
class FileSource(Source):
    """Files: each is a document, or each of its rows is. field: where the text is in JSONL and Parquet."""

    field: str = "text"

    def documents(self) -> Iterator[Document]:
        for name in self.names:
            path = self.root / name
            if not is_rows(path):
                yield Document(name, name, _read_text(path))
                continue
            rows = _read_jsonl if path.suffix.lower() == ".jsonl" else _read_parquet
            for number, text in rows(path, self.field):
                # In a single file a row is known by its number: the split survives a renaming.
                key = number if len(self.names) == 1 else f"{name}:{number}"
                yield Document(f"{name}:{number}", key, (text,))


def is_rows(path: Path) -> bool:
    """Whether the file holds one document in each row."""
    return path.suffix.lower() in _ROWS


def python_source() -> Source:
    """The source code of the running interpreter's standard library: about 11 MB, on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    names, skipped = _scan(root, ("*.py",), _PYTHON_EXCLUDE)
    return FileSource("python (the standard library's source)", root, tuple(names), False, True, tuple(skipped))


def file_source(path: Path, field: str) -> Source:
    """One file. Raises UserError if it cannot be read."""
    if not signature(path):
        raise UserError(f"The file {path} cannot be read: check its permissions.")
    return FileSource(str(path), path.parent, (path.name,), plain=not is_rows(path), field=field)


def folder_source(root: Path, include: Sequence[str], exclude: Sequence[str], mode: Mode, field: str) -> Source:
    """The files of a folder that match `include` (or, if that is empty, the usual endings of `mode`).

    A pattern without a slash is matched against names (of files, and for `exclude` of folders too), one with
    a slash against the path inside the folder. Raises UserError if nothing matches.
    """
    endings = {"text": f"{_TEXT} {_ROW_ENDINGS}", "code": _CODE, "auto": f"{_TEXT} {_CODE}"}[mode]
    names, skipped = _scan(root, include or [f"*.{ending}" for ending in endings.split()], exclude)
    if not names and not include and mode == "auto":
        names, skipped = _scan(root, [f"*.{ending}" for ending in _ROW_ENDINGS.split()], exclude)
    if not names:
        wanted = f"include={tuple(include)}" if include else f'the endings of mode="{mode}"'
        there = {Path(name).suffix or Path(name).name for name in _scan(root, ("*",), exclude)[0]}
        found = f"there are {abbreviate(sorted(there))}" if there else "it holds no others"
        raise UserError(
            f"No file in {root} matches {wanted} (exclude={tuple(exclude)}; {found}): name others in include."
        )
    for name in names:
        if is_rows(root / name) and not signature(root / name):
            raise UserError(f"The file {root / name} cannot be read: check its permissions, or exclude it.")
    return FileSource(str(root), root, tuple(names), False, True, tuple(skipped), field)


def _scan(root: Path, include: Sequence[str], exclude: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths inside `root` of the files wanted, sorted, and what could not be followed."""
    names: list[str] = []
    skipped: list[str] = []

    def note(error: OSError) -> None:
        skipped.append(f"{Path(error.filename).relative_to(root).as_posix()} (unreadable folder)")

    for folder, folders, files in os.walk(root, onerror=note):
        inside = Path(folder).relative_to(root)
        paths = [(inside / name).as_posix() for name in folders]
        wanted = [path for path in paths if not _matches(path, exclude)]
        skipped += [f"{path} (link to a folder)" for path in wanted if (root / path).is_symlink()]
        folders[:] = [Path(path).name for path in wanted]  # os.walk enters only these
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


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line's number (from 1) and its object; blank lines are none. Raises UserError on a line that is no object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"Line {number} of {path} is not JSON ({error}): mend or remove it.") from None
            if not isinstance(row, dict):
                raise UserError(f"Line {number} of {path} lacks its fields (it is no JSON object): mend or remove it.")
            yield number, row


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """The line's number (from 1) and its text."""
    for number, row in json_rows(path):
        if field not in row:
            raise UserError(
                f'Line {number} of {path} lacks the field "{field}" (its fields are {", ".join(row)}): '
                "name the field that holds the text."
            )
        yield number, text_of(row[field], f"Line {number} of {path}", field)


def _read_parquet(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """The row's number (from 0) and its text."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(f"Reading {path} needs pyarrow: pip install 'seedfast[parquet]'.") from None
    number = 0
    try:
        table: Any = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"The file {path} is not Parquet ({error}): name another, or write it anew.") from None
    if field not in (columns := table.schema_arrow.names):
        raise UserError(
            f'The file {path} lacks the column "{field}" (it has {", ".join(columns)}): '
            "name the column that holds the text in field."
        )
    for rows in table.iter_batches(batch_size=1024, columns=[field]):
        for value in rows.column(0).to_pylist():
            yield number, text_of(value, f"Row {number} of {path}", field)
            number += 1


def text_of(value: object, place: str, field: str) -> str:
    """The value, if it is a text that UTF-8 can hold. Raises UserError naming the place if not."""
    if not isinstance(value, str):
        raise UserError(f'{place} has {value!r:.40} in "{field}", which is no text: remove it or name another field.')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} has half a character (the lone surrogate U+{ord(value[error.start]):04X}) in "
            f'"{field}": mend or remove it.'
        ) from None
    return value
