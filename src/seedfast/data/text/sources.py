"""Sources of text: the standard library, a file, a folder. A source yields documents."""

import codecs
import os
import stat
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from seedfast.console import abbreviate, say
from seedfast.data.fingerprint import signature
from seedfast.data.json_rows import Row
from seedfast.data.names import is_utf8, printable
from seedfast.data.prepare import SourceFiles
from seedfast.data.text.row_forms import is_dialogue
from seedfast.data.text.rows import ARRAY, COMPRESSED, ROW_ENDINGS, RowFile, named_as_rows, row_file, text_field
from seedfast.errors import UserError

EXCLUDE = (".*", "__pycache__", "node_modules")
"""Left out of every folder by default: hidden and generated files."""

_TEXT = "txt text md markdown rst tex adoc org"
_CODE = (
    "py pyi pyx c h cc cpp cxx hh hpp cu cuh m mm java kt scala groovy go rs js jsx mjs cjs ts tsx vue "
    "svelte rb php pl pm swift cs fs hs ml mli lua r jl sh bash zsh ps1 sql html css scss ex exs erl clj "
    "el lisp scm rkt vim asm s f f90 f95 zig dart nim proto cmake"
)
_ROWS = [f"*{ending}{packed}" for ending in ROW_ENDINGS for packed in ("", *COMPRESSED)]
_ABOUT = {"README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "CHANGELOG", "CONTRIBUTING", "CITATION"}
"""Names, without their endings, of files about the others of a folder."""

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

    @property
    def has_plain_texts(self) -> bool:
        """Whether some files are texts without rows."""
        return False

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """All documents. Raises UserError on an invalid row."""

    def rows(self, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
        """Each row's name, for messages, and its fields; nothing if the documents are no rows.

        columns: the only fields that are needed (default: all). Raises UserError on an invalid row.
        """
        return iter(())

    def first_row(self) -> tuple[str, Row] | None:
        """The first of `rows`, with all its fields."""
        return next(self.rows(), None)


@dataclass(frozen=True)
class TextFileSource(TextSource):
    """Files: each is a document, or each of its rows is one.

    row_files: those with rows, by name. field: the field of a row that holds the text.
    """

    row_files: Mapping[str, RowFile] = field(default_factory=dict)
    field: str = "text"

    @property
    def has_plain_texts(self) -> bool:
        return len(self.row_files) < len(self.names)

    def documents(self) -> Iterator[Document]:
        for name in self.names:
            if name not in self.row_files:
                yield Document(name, name, _read_text(self.root / name))
                continue
            file = self.row_files[name]
            for number, row in file.rows({self.field}):
                # In a single file the key of a row is its number: the split does not change if the file is renamed.
                key = number if len(self.names) == 1 else f"{name}:{number}"
                text = text_field(row, self.field, file.place(number))
                yield Document(f"{name}:{number}", key, (text,))

    def rows(self, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
        for file in self.row_files.values():
            for number, row in file.rows(columns):
                yield file.place(number), row


def python_source() -> TextSource:
    """The source code of the running interpreter's standard library: about 11 MB, on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    names, skipped = _scan(root, ("*.py",), _PYTHON_EXCLUDE)
    return TextFileSource("python (the standard library's source)", root, tuple(names), skipped=tuple(skipped))


def file_source(path: Path, field: str) -> TextSource:
    """One file. Raises UserError if it cannot be read, or is named as a file of rows and holds none."""
    if not signature(path):
        raise UserError(f"The file {path} cannot be read: check its permissions.")
    rows = row_file(path)
    if rows is None and named_as_rows(path.name):
        raise UserError(
            f"The file {path} is one JSON object, and no rows: store the list of rows that it holds as an array, or "
            "one object in each line."
        )
    if rows and not named_as_rows(path.name):
        _, first = next(rows.rows())
        rows = rows if field in first or is_dialogue(first) else None  # else: a text that begins with JSON
    if rows is not None and rows.form is ARRAY:
        say(f"{path} is a JSON array: its items are read like the lines of a .jsonl file.")
    return TextFileSource(
        str(path),
        path.parent,
        (path.name,),
        is_one_text=rows is None,
        skipped=_byte_order_marks(path.parent, [path.name]),
        row_files={path.name: rows} if rows else {},
        field=field,
    )


def folder_source(root: Path, include: Sequence[str], exclude: Sequence[str], mode: Mode, field: str) -> TextSource:
    """The files of a folder that match `include` (or, if that is empty, the usual endings of `mode`).

    A pattern without a slash is matched against names (of files, and for `exclude` of folders too), a pattern with a
    slash against the path inside the folder. Raises UserError if nothing matches.
    """
    if any((root / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise UserError(f"{root} is a data set that save_to_disk wrote: name it as hf:{root}.")
    endings = {"text": _TEXT, "code": _CODE, "auto": f"{_TEXT} {_CODE}"}[mode]
    usual = [f"*.{ending}" for ending in endings.split()] + (_ROWS if mode == "text" else [])
    names, skipped = _scan(root, include or usual, exclude, fold=not include)
    if not include and mode == "auto":
        names, skipped = _with_rows(root, exclude, names, skipped)
    if not names:
        condition = f"data.include={tuple(include)}" if include else f'the endings of data.mode="{mode}"'
        present = {Path(name).suffix or Path(name).name for name in _scan(root, ("*",), exclude)[0]}
        found = f"there are {abbreviate(sorted(present))}" if present else "it holds no others"
        raise UserError(
            f"No file in {root} matches {condition} (data.exclude={tuple(exclude)}; {found}): "
            "name others in data.include."
        )
    row_files = {}
    for name in [name for name in names if named_as_rows(name)]:
        if not signature(root / name):
            raise UserError(f"The file {root / name} cannot be read: check its permissions, or exclude it.")
        if rows := row_file(root / name):
            row_files[name] = rows
        elif not include:
            names.remove(name)
            skipped.append(f"{name} (one JSON object, and no rows)")
    skipped += _byte_order_marks(root, names)
    return TextFileSource(
        str(root), root, tuple(names), skipped=tuple(sorted(skipped)), row_files=row_files, field=field
    )


def _with_rows(root: Path, exclude: Sequence[str], names: list[str], skipped: list[str]) -> tuple[list[str], list[str]]:
    """Texts and code, or the files of rows if there are no others than those about the folder, such as a README."""
    found, skipped_rows = _scan(root, _ROWS, exclude, fold=True)
    about = [name for name in names if Path(name).name.partition(".")[0].upper() in _ABOUT]
    rows = [name for name in found if not signature(root / name) or row_file(root / name)]
    if rows and len(about) == len(names):
        return rows, sorted({*skipped, *skipped_rows, *(f"{name} (it is about the rows)" for name in about)})
    # Code has many tables and configurations in JSON; of the other rows, the user is told.
    beside = [name for name in rows if not name.lower().endswith((".json", ".csv", ".tsv"))]
    return names, skipped + [f"{name} (rows beside texts: name one kind in data.include)" for name in beside]


def _byte_order_marks(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """What is dropped at the beginnings of files that an editor of Windows has saved."""
    found = []
    for name in names:
        if signature(root / name):
            with (root / name).open("rb") as file:
                if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                    found.append(f"the byte order mark of {name}")
    return tuple(found)


def _scan(
    root: Path, include: Sequence[str], exclude: Sequence[str], *, fold: bool = False
) -> tuple[list[str], list[str]]:
    """The paths inside `root` of the matching files, sorted, and what could not be entered or read.

    fold: whether `include` matches upper-case names too.
    """
    names: list[str] = []
    skipped: list[str] = []

    def note(error: OSError) -> None:
        skipped.append(f"{printable(Path(error.filename).relative_to(root).as_posix())} (unreadable folder)")

    for folder, folders, files in os.walk(root, onerror=note):
        inside = Path(folder).relative_to(root)
        paths = [path for name in folders if not _matches(path := (inside / name).as_posix(), exclude)]
        links = [path for path in paths if (root / path).is_symlink()]
        skipped += [f"{printable(path)} (link to a folder)" for path in links]
        folders[:] = [Path(path).name for path in paths]  # os.walk enters only these
        for path in ((inside / name).as_posix() for name in files):
            if _matches(path.lower() if fold else path, include) and not _matches(path, exclude):
                if fault := _fault(root / path):
                    skipped.append(f"{printable(path)} ({fault})")
                else:
                    names.append(path)
    return sorted(names), sorted(skipped)


def _fault(path: Path) -> str | None:
    """Why a path cannot be a source file, if so: reading a pipe would wait for ever, and JSON cannot hold any name."""
    if not is_utf8(str(path)):
        return "its name is not UTF-8"
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "no regular file"
    except OSError:
        return None  # a broken link: reading it reports it


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def _read_text(path: Path) -> Iterator[str]:
    """The characters of a file exactly as they are, without a byte order mark: no newline is translated."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
