"""Functions in the user's own Python files, named as `path/to/file.py:function`: recipes, features, data sources.

A file that the user names runs. A file that only a run folder names runs with the user's consent, since the folder may
be a stranger's: `trust`, or the record that this user has trained in that very folder with that very file.
"""

import hashlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.errors import UserError
from seedfast.files import commit, to_json

_executed: dict[str, str] = {}
"""SHA-256 of each file that this process has executed, by its real path."""
_named: set[str] = set()
"""The real paths of the files that the user has named."""
_folders: list["_Folder"] = []
"""The run folders whose files are being opened, the innermost last."""


class OwnFunction(NamedTuple):
    """A function of the user. location: `/absolute/path/to/file.py:function`."""

    call: Callable[..., Any]
    location: str

    @property
    def file(self) -> Path:
        """The file that defines it."""
        return Path(self.location.rpartition(":")[0])

    def failure(self, error: Exception) -> UserError:
        """The error that names what the function raised, and the line of the file where it happened."""
        return UserError(f"{self.location} raises {_described(error, self.file)}: fix it.")


def executed() -> dict[str, str]:
    """SHA-256 of each file of the user that this process has executed, by its real path."""
    return dict(_executed)


def names_function(name: str) -> bool:
    """Whether `name` has the form path/to/file.py:function."""
    file, colon, function = name.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def own_function(name: str) -> OwnFunction:
    """The function that `path/to/file.py:function` names. The file is executed, as an import would do it, but always as
    it is now: bytecode beside it may be of an earlier version or a stranger's, whom nobody has read.

    Raises UserError if the file or the function does not exist, the file cannot be executed, or it is named by a run
    folder without the user's consent.
    """
    if not names_function(name):
        raise UserError(f"{name} names no function: write it as path/to/file.py:function.")
    file, _, function = name.rpartition(":")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{name} names the file {path}, which does not exist.")
    source = path.read_bytes()  # once: what is executed is what has been agreed to, and is recorded
    digest = hashlib.sha256(source).hexdigest()
    if _folders:
        _folders[-1].require_consent(path, digest)
    _executed[os.path.realpath(path)] = digest
    name = str(path.with_suffix(""))  # no name of another module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends with .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their types
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"{path} raises {_described(error, path)} when it is imported: fix it.") from error
    if not callable(found := getattr(module, function, None)):
        raise UserError(f"{path} has no function called {function}.")
    return OwnFunction(found, f"{path}:{function}")


def _described(error: Exception, file: Path) -> str:
    """Such as "ValueError at line 12 (bad value)": the innermost line of `file` that the error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    place = f" at line {lines[-1]}" if lines else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{place}" + (f" ({text})" if text else "")


def named_by_user(*names: str) -> None:
    """Note what the user names, such as the words of a command: from now on the Python files among them run."""
    files = (name.rpartition(":")[0].rpartition("=")[2] for name in names if names_function(name))
    _named.update(os.path.realpath(Path(file).expanduser()) for file in files)


@contextmanager
def named_by(folder: Path, *, trust: bool) -> Iterator[None]:
    """Within it, `own_function` takes names to be those of a run folder and runs a file only with consent.

    trust: the user's consent for every file.
    """
    _folders.append(_Folder(folder, trust))
    try:
        yield
    finally:
        _folders.pop()


@contextmanager
def named_in(file: Path) -> Iterator[None]:
    """Within it, names are those of a file that may be a stranger's, such as a mixture: they need consent too."""
    if _folders:  # a run folder's rule holds for what its files name
        yield
        return
    with named_by(file, trust=False):
        yield


class _Folder(NamedTuple):
    """A run folder, or a file of one, and the user's consent to run files that it names."""

    path: Path
    trust: bool

    def require_consent(self, file: Path, digest: str) -> None:
        """Raise UserError without the user's consent to run the file with these contents."""
        real = os.path.realpath(file)
        if not (self.trust or real in _named or _record(self.path, real, digest).is_file()):
            names = f"The run in {self.path}" if not self.path.is_file() else str(self.path)
            raise UserError(
                f"{names} names the Python file {file}, which could do everything on this machine that "
                "you can: read it, and pass --trust (trust=True in Python) to let it run. It needs no --trust where "
                "you have trained with it yourself, in this folder, and it is unchanged."
            )


def remember(folder: Path) -> None:
    """Record, outside of the run folder, that the user trains in it with the Python files that have been executed.

    Raises OSError.
    """
    for file, digest in _executed.items():
        record = _record(folder, file, digest)
        if not record.is_file():
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            commit(record, to_json({"run": os.path.realpath(folder), "file": file, "sha256": digest}))


def _record(folder: Path, file: str, digest: str) -> Path:
    """The record of a run folder and a file with these contents, in the user's own data folder."""
    key = json.dumps([os.path.realpath(folder), file, digest])
    home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    return home / "seedfast" / "trusted" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
