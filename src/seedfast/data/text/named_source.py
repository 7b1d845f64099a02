"""The source of text that a path names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seedfast.data.text.dialogues import as_chats
from seedfast.data.text.joined import joined
from seedfast.data.text.own import own_source
from seedfast.data.text.preferences import as_preferences
from seedfast.data.text.sources import (
    TextSource,
    file_source,
    folder_source,
    is_utf8,
    printable,
    python_source,
)
from seedfast.errors import UserError
from seedfast.options import refuse_unused
from seedfast.user_code import names_function

PYTHON = "python"
"""The name of the standard library's source code."""

_Unused = dict[str, str]
"""The options that have no effect on a source, and why."""


def named_source(paths: Sequence[str], options: Any) -> TextSource:
    """The source that the paths name together. options: a configuration with `include`, `exclude`, `mode` and `field`.

    Raises UserError if there is none, or an option has no effect on any of them.
    """
    found = [_named(path, options) for path in paths]
    for name, reason in found[0][1].items():
        if all(name in unused for _, unused in found):
            refuse_unused(options, name, reason, "data.")
    source = joined([source for source, _ in found])
    return as_preferences(source, options.field) or as_chats(source, options.field)


def located(path: str) -> str:
    """The absolute path of a file, a folder or a function; every other name as it is."""
    if path == PYTHON:  # even where a file or folder has this name
        return path
    file, colon, function = path.rpartition(":") if names_function(path) else (path, "", "")
    absolute = Path(file).expanduser().absolute()
    return f"{absolute}{colon}{function}" if absolute.exists() else path


def _named(name: str, options: Any) -> tuple[TextSource, _Unused]:
    path = Path(name).expanduser().absolute()
    unused = dict.fromkeys(("include", "exclude", "mode"), f'data.path="{name}" is not a folder')
    if name == PYTHON:
        return python_source(), unused | {"field": "Python files have no fields"}
    if name.startswith("hf:"):
        from seedfast.data.text.hub import hub_source

        return hub_source(name.removeprefix("hf:"), options.field), unused
    if not is_utf8(name):
        raise UserError(f'The name of data.path="{printable(name)}" is not UTF-8: rename it.')
    if path.is_dir():
        source = folder_source(path, options.include, options.exclude, options.mode, options.field)
        unused = {}
    elif path.is_file():
        source = file_source(path, options.field)
    elif names_function(name):
        own = own_source(name, options.field)
        return own, unused | ({"field": f"{own.title} yields texts without fields"} if own.yields_texts else {})
    elif path.exists():
        raise UserError(f'data.path="{name}" is no regular file, and data is read several times: store it in a file.')
    else:
        raise UserError(
            f'data.path="{name}" is neither a file nor a folder: name one, hf:NAME, path/to/file.py:function, '
            "or python for the standard library's source code."
        )
    if source.first_row() is None:
        unused["field"] = f'data.path="{name}" holds no rows (JSONL, JSON, CSV or Parquet)'
    return source, unused
