"""Parsing the flags of a command: `tyro`, with the rules of options in the help and earlier names answered."""

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

from seedfast.errors import UserError
from seedfast.options import Formerly, describe, rules
from seedfast.options import default as default_of

T = TypeVar("T")

Trust = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(
        help="Run the Python files that the run folder names (an own recipe, an own data source), which can do "
        "everything that you can: read them first. Files that you have trained with yourself, in this folder, need no "
        "--trust."
    ),
]
"""The flag `--trust`."""


def parse(kind: Any, words: Sequence[str], *, prog: str, default: Any = None, config: Sequence[Any] = ()) -> Any:
    """The arguments of a command as a value of `kind`, or of a copy of `default` with the flags changed.

    Raises UserError for a flag that has another name now; exits with status 2 on other mistakes, as `--help` does.
    """
    kinds = list(_dataclasses(kind, default))
    for each in kinds:
        _show_rules(each)
    refuse_old_flags(words, default if default is not None else kind)
    given = {"default": default} if default is not None else {}
    shown = _HeldBack()
    try:
        with redirect_stderr(shown):
            return tyro.cli(kind, args=list(words), prog=prog, config=tuple(config), **given)
    except SystemExit as ended:
        if mistake := _user_error(ended):
            raise mistake from None
        sys.stderr.write(shown.getvalue())
        raise


def with_value(words: Sequence[str], flag: str) -> list[str]:
    """The words with a bare flag written out as `--flag=True`, where all flags take values."""
    following = [*words, ""][1:]
    return [
        f"{flag}=True" if word == flag and after not in ("True", "False") else word
        for word, after in zip(words, following, strict=True)
    ]


class _HeldBack(io.StringIO):
    """Standard error, held back: tyro frames the sentence of a `UserError`, which the command line prints plainly."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake that led to an exception, if there was one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _dataclasses(kind: Any, value: Any) -> Iterator[type]:
    """The dataclasses that a command line is made of: those of the default value, or else of the types."""
    if is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for f in fields(value):
            yield from _dataclasses(None, getattr(value, f.name))
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and is_dataclass(part):
            yield part


@cache
def _show_rules(kind: type) -> None:
    """Add the rules of each field to the hint that follows its help: "(default: 1; at least 1)".

    tyro reads hints from the annotations of the class, so they are extended there, once.
    """
    annotations = dict(kind.__annotations__)
    hints = get_type_hints(kind, include_extras=True)
    for f in fields(kind):
        if (words := describe(kind, f.name)) and f.name in annotations:
            hint = tyro.conf.arg(help_behavior_hint=_Hint(words))
            annotations[f.name] = Annotated[hints[f.name], hint]
    kind.__annotations__ = annotations


class _Hint:
    """The hint of a flag: its default, as tyro writes it, and its rules."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __call__(self, default: str) -> str:
        return f"(default: {default}; {self.words})"

    def __hash__(self) -> int:
        return hash(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hint) and self.words == other.words


def refuse_old_flags(words: Sequence[str], options: Any) -> None:
    """Raise UserError for a flag under its earlier name, naming the present one."""
    known = dict(_old_names(options))
    for word in words:
        flag = re.match(r"--([a-z0-9_.-]+)", word)
        if flag and (new := known.get(flag[1].replace("_", "-"))):
            raise UserError(f"--{flag[1]} is now {new}.")


def _old_names(options: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The earlier names of flags with the present ones, of a configuration or its class."""
    kind = options if isinstance(options, type) else type(options)
    if not is_dataclass(kind):
        for part in get_args(options):
            yield from _old_names(part, prefix)
        return
    for f in fields(kind):
        new = f"{prefix}{f.name}".replace("_", "-")
        for rule in rules(kind)[f.name]:
            if isinstance(rule, Formerly):
                note = f", {rule.note}" if rule.note else ""
                yield f"{prefix}{rule.name}".replace("_", "-"), f"called --{new}{note}"
        inner = getattr(options, f.name, default_of(f))
        if is_dataclass(inner) and not isinstance(inner, type):
            flat = f.name in ("run", "request")
            yield from _old_names(inner, prefix if flat else f"{prefix}{f.name}.")
