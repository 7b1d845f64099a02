"""Folders of text and code: which files are taken, and the split that their names give."""

import os
import re
import stat
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from seedfast.console import abbreviate
from seedfast.data.file_kinds import ARCHIVES
from seedfast.data.fingerprint import signature
from seedfast.data.given_split import NEVER_TRAINED, SPLIT_NAMES, given_split
from seedfast.data.names import escaped, is_utf8
from seedfast.data.prepare import is_run_folder
from seedfast.data.text.rows import ROW_ENDINGS, NoRowsError, RowFile, named_as_rows, row_file
from seedfast.data.text.sources import TextFileSource, TextSource, byte_order_marks
from seedfast.errors import UserError

EXCLUDE = (".*", "__pycache__", "node_modules")
"""Left out of every folder by default: hidden and generated files."""

_TEXT = "txt text md markdown rst tex adoc org"
_CODE = (
    "py pyi pyx c h cc cpp cxx hh hpp cu cuh m mm java kt scala groovy go rs js jsx mjs cjs ts tsx vue "
    "svelte rb php pl pm swift cs fs hs ml mli lua r jl sh bash zsh ps1 sql html css scss ex exs erl clj "
    "el lisp scm rkt vim asm s f f90 f95 zig dart nim proto cmake"
)
_ROWS = [f"*{ending}{packed}" for ending in ROW_ENDINGS for packed in ("", *ARCHIVES)]
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
_SHARD = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+(-[0-9a-f]{8,})?)?$")
"""The end of the name of a shard, such as train-00000-of-00003, as the hub names them."""

Mode = Literal["auto", "text", "code"]


def python_source() -> TextSource:
    """The source code of the running interpreter's standard library: about 11 MB, on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    names, skipped = _scan(root, ("*.py",), _PYTHON_EXCLUDE)
    return TextFileSource("python (the standard library's source)", root, tuple(names), skipped=tuple(skipped))


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
    row_files = _row_files(root, names, field)
    if not include:
        without = [name for name in names if named_as_rows(name) and name not in row_files]
        names = [name for name in names if name not in without]
        skipped += [f"{name} (JSON without rows)" for name in without]
    splits = _splits(root, names)
    if splits:
        skipped += [f"{name} ({_unused(name, splits)})" for name in names if name not in splits]
        names = [name for name in names if name in splits]
        row_files = {name: rows for name, rows in row_files.items() if name in splits}
    return TextFileSource(
        str(root),
        root,
        tuple(names),
        skipped=tuple(sorted([*skipped, *byte_order_marks(root, names)])),
        row_files=row_files,
        splits=splits,
        field=field,
    )


def _with_rows(root: Path, exclude: Sequence[str], names: list[str], skipped: list[str]) -> tuple[list[str], list[str]]:
    """Texts and code, or the files of rows if there are no others than those about the folder, such as a README."""
    rows, skipped_rows = _scan(root, _ROWS, exclude, fold=True)
    about = [name for name in names if _is_about(name)]
    if rows and len(about) == len(names):
        return rows, sorted({*skipped, *skipped_rows, *(f"{name} (it is about the rows)" for name in about)})
    # Code has many tables and configurations in JSON; of the other rows, the user is told.
    beside = [name for name in rows if not name.lower().endswith((".json", ".csv", ".tsv"))]
    return names, skipped + [f"{name} (rows beside texts: name one kind in data.include)" for name in beside]


def _is_about(name: str) -> bool:
    return Path(name).name.partition(".")[0].upper() in _ABOUT


def _row_files(root: Path, names: Sequence[str], field: str) -> dict[str, RowFile]:
    """The files of rows among files, by name."""
    found = {}
    for name in filter(named_as_rows, names):
        if not signature(root / name):
            raise UserError(f"The file {root / name} cannot be read: check its permissions, or exclude it.")
        with suppress(NoRowsError):
            if rows := row_file(root / name, field):
                found[name] = rows
    return found


def _splits(root: Path, names: Sequence[str]) -> dict[str, str]:
    """The split of each file of a given split, which files such as train.txt and val.txt or their folders give.

    Code gives none, and neither do files that hold less than half of the bytes, such as two pages of documentation that
    happen to have these names.
    """
    code = tuple(f".{ending}" for ending in _CODE.split())
    words = {name: word for name in names if not name.lower().endswith(code) and (word := _split_word(name))}
    given = given_split({*words.values()})
    sizes = {name: found[0] if (found := signature(root / name)) else 0 for name in names if not _is_about(name)}
    if 2 * sum(size for name, size in sizes.items() if name in words) <= sum(sizes.values()):
        return {}
    return {name: split for name, word in words.items() if (split := given.get(word))}


def _split_word(name: str) -> str | None:
    """The part of a file's path that is the name of a split: a folder, or the first or last word of the file's name, as
    in train-00000-of-00003.parquet and ptb.train.txt."""
    *folders, file = name.split("/")
    words = re.split(r"[-_.]", _SHARD.sub("", file.rpartition(".")[0] or file))
    return next((part for part in (*folders, words[0], words[-1]) if part.lower() in SPLIT_NAMES), None)


def _unused(name: str, splits: Mapping[str, str]) -> str:
    """Why a file beside those of a given split is left out."""
    word = _split_word(name)
    is_test = word is not None and SPLIT_NAMES[word.lower()] == "test"
    used = sorted({str(_split_word(each)) for each in splits})
    return NEVER_TRAINED if is_test else f"beside {' and '.join(used)}"


def _scan(
    root: Path, include: Sequence[str], exclude: Sequence[str], *, fold: bool = False
) -> tuple[list[str], list[str]]:
    """The paths inside `root` of the matching files, sorted, and what could not be entered or read.

    fold: whether `include` matches upper-case names too.
    """
    names: list[str] = []
    skipped: list[str] = []

    def note(error: OSError) -> None:
        skipped.append(f"{escaped(Path(error.filename).relative_to(root).as_posix())} (unreadable folder)")

    for folder, folders, files in os.walk(root, onerror=note):
        inside = Path(folder).relative_to(root)
        paths = [path for name in folders if not _matches(path := (inside / name).as_posix(), exclude)]
        links = [path for path in paths if (root / path).is_symlink()]
        skipped += [f"{escaped(path)} (link to a folder)" for path in links]
        runs = [path for path in paths if is_run_folder(root / path)]
        skipped += [f"{path} (run folder)" for path in runs]
        paths = [path for path in paths if path not in runs]
        folders[:] = [Path(path).name for path in paths]  # os.walk enters only these
        for path in ((inside / name).as_posix() for name in files):
            if _matches(path.lower() if fold else path, include) and not _matches(path, exclude):
                if fault := _fault(root / path):
                    skipped.append(f"{escaped(path)} ({fault})")
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
