"""Functions in the user's own Python files, named as `path/to/file.py:function`: recipes, features, data sources."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.errors import UserError


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


def names_function(name: str) -> bool:
    """Whether `name` has the form path/to/file.py:function."""
    file, colon, function = name.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def own_function(name: str) -> OwnFunction:
    """The function that `path/to/file.py:function` names. The file is executed, as an import would.

    Raises UserError if the file or the function does not exist, or the file cannot be executed.
    """
    file, colon, function = name.rpartition(":")
    if not colon:
        raise UserError(f"{name} names no function: write it as path/to/file.py:function.")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{name} names the file {path}, which does not exist.")
    name = str(path.with_suffix(""))  # no name of another module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their types
    try:
        spec.loader.exec_module(module)
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
