"""The source of text that a path names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seedfast.data.names import escaped, is_utf8
from seedfast.data.text.dialogues import as_chats
from seedfast.data.text.fields import TEXT
from seedfast.data.text.folders import folder_source, python_source
from seedfast.data.text.joined import joined
from seedfast.data.text.own import OwnSource, own_source
from seedfast.data.text.preferences import as_preferences
from seedfast.data.text.sources import TextSource, file_source
from seedfast.errors import UserError
from seedfast.options import refuse_unused
from seedfast.user_code import names_function

PYTHON = "python"
"""The name of the standard library's source code."""


def named_source(paths: Sequence[str], options: Any) -> TextSource:
    """The source that the paths name together. options: a configuration with `include`, `exclude`, `mode` and `field`.

    Raises UserError if there is none, or an option has no effect on any of them.
    """
    if not any(is_folder(path) for path in paths):
        for name in ("include", "exclude", "mode"):
            refuse_unused(options, name, f'data.path="{paths[0]}" is not a folder', "data.")
    sources = [_source(path, options) for path in paths]
    reasons = [_without_field(path, source) for path, source in zip(paths, sources, strict=True)]
    if reasons[0] and all(reasons) and options.field != TEXT:  # which runs of earlier versions store as the default
        refuse_unused(options, "field", reasons[0], "data.")
    source = joined(sources)
    if source.has_split:
        refuse_unused(options, "validation", f"{source.title} has its own split", "data.")
    return as_preferences(source, options.field) or as_chats(source, options.field)


def located(path: str) -> str:
    """The absolute path of a file, a folder or a function; every other name as it is."""
    if path == PYTHON or path.startswith("hf:"):  # even where a file or folder has this name
        return path
    file, colon, function = path.rpartition(":") if names_function(path) else (path, "", "")
    absolute = Path(file).expanduser().absolute()
    return f"{absolute}{colon}{function}" if absolute.exists() else path


def is_folder(name: str) -> bool:
    """Whether a path names a folder of files."""
    return name != PYTHON and not name.startswith("hf:") and Path(name).expanduser().is_dir()


def _source(name: str, options: Any) -> TextSource:
    field = options.field or TEXT
    if name == PYTHON:
        return python_source()
    if name.startswith("hf:"):
        from seedfast.data.text.hub import hub_source

        return hub_source(name.removeprefix("hf:"), field)
    if not is_utf8(name):
        raise UserError(f'The name of data.path="{escaped(name)}" is not UTF-8: rename it.')
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        return folder_source(path, options.include, options.exclude, options.mode, field)
    if path.is_file():
        return file_source(path, field)
    if names_function(name):
        return own_source(name, field)
    if path.exists():
        raise UserError(f'data.path="{name}" is no regular file, and data is read several times: store it in a file.')
    raise UserError(
        f'data.path="{name}" is neither a file nor a folder: name one, hf:NAME, path/to/file.py:function, or python '
        "for the standard library's source code."
    )


def _without_field(name: str, source: TextSource) -> str | None:
    """Why the option `field` has no effect on a source; None if it has one."""
    if name == PYTHON:
        return "Python files have no fields"
    if isinstance(source, OwnSource):
        return f"{source.title} yields texts without fields" if source.yields_texts else None
    return None if source.first_row() else f'data.path="{name}" holds no rows (JSONL, JSON, CSV or Parquet)'
