"""Functions of a user's own, by `path/to/file.py:function`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedfast.errors import UserError


def own_function(name: str) -> tuple[Callable[..., Any], str]:
    """The function that `path/to/file.py:function` names, and that name as it holds from any folder.

    Raises UserError if there is none.
    """
    file, colon, function = name.rpartition(":")
    if not colon:
        raise UserError(f"{name} names no function: write it as path/to/file.py:function.")
    path = Path(file).absolute()
    if not path.is_file():
        raise UserError(f"{name} names the file {path}, which does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        raise UserError(f"{path} has no function called {function}.")
    return found, f"{path}:{function}"
