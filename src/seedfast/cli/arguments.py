"""Parsing the flags of a command: `tyro`, with the rules of options in the help and earlier names answered."""

import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tyro

from seedfast.cli.other_tools import refuse_foreign_flags
from seedfast.errors import UserError
from seedfast.field_docstrings import field_docstrings
from seedfast.options import Formerly, describe, rules
from seedfast.options import default as default_of

Trust = Annotated[
    bool,
    tyro.conf.arg(
        help="Run the Python files that the run folder names (an own recipe, an own data source), which can do "
        "everything that you can: read them first. Files that you have trained with yourself, in this folder, need no "
        "--trust."
    ),
]
"""The flag `--trust`."""


def check_output(flag: str, path: Path, *endings: str) -> None:
    """Raise UserError for a file that cannot be written, before the work that leads to it. endings: of its name."""
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"--{flag} {path} cannot be written: {reason}.")
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"--{flag} {path} must end in {' or '.join(endings)}.")


def trusts(words: Sequence[str]) -> bool:
    """Whether the words of a command have `--trust`; for what is needed before they can be parsed."""
    return bool({"--trust", "--trust=True"} & set(words))


def step_of(words: Sequence[str]) -> int | Literal["best", "newest"]:
    """The value of `--at` among the words of a command, needed as early as `trusts`; mistakes are left to `parse`."""
    for word, after in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        given = (value or after) if flag == "--at" else ""
        if given.isdecimal() or given == "newest":
            return int(given) if given.isdecimal() else "newest"
    return "best"


def without(kind: type[Any], names: Sequence[str]) -> type[Any]:
    """A class of requests without some of its flags, for a command in which these have no effect."""
    known = {f.name: default_of(f) for f in fields(kind) if f.name in names}
    fixed: dict[str, Any] = {name: Annotated[type(value), tyro.conf.Fixed, _HIDDEN] for name, value in known.items()}
    body = {"__annotations__": fixed, "__doc__": kind.__doc__, "__module__": kind.__module__, **known}
    return dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), body))


def parse(kind: Any, words: Sequence[str], *, prog: str, default: Any = None) -> Any:
    """The arguments of a command as a value of `kind`, or of a copy of `default` with the flags changed.

    Every command takes a yes-or-no flag bare, with True or False, and as --no-FLAG; and a list as one flag with several
    values, or as the flag several times. prog: "seedfast COMMAND …". Raises UserError for a flag that has another name
    now, or is one of another tool; exits with status 2 on other mistakes, as `--help` does.
    """
    options = kind if default is None else default
    for each in {flag.kind for flag in flags(options)}:
        _show_rules(each)
        if not _HELP.isdisjoint(words):
            _join_lines(each)
    refuse_old_flags(words, options)
    refuse_foreign_flags(prog.split()[1], words, _own_flags(options))
    written, default = _one_form(words, options, default)
    given = {} if default is None else {"default": default}
    page, shown = _HeldBack(), _HeldBack()
    try:
        with redirect_stdout(page), redirect_stderr(shown):
            return tyro.cli(kind, args=written, prog=prog, config=_CONVENTION, **given)
    except SystemExit as ended:
        if mistake := _user_error(ended):
            raise mistake from None
        sys.stderr.write(shown.getvalue())
        print("\n".join(_narrow(page.getvalue())))
        raise


def _own_flags(options: Any) -> set[str]:
    """The names of a command's flags, negated ones too."""
    names = {flag.name for flag in flags(options)}
    return names | {_negated(name) for name in names}


_HELP = {"-h", "--help"}

_HIDDEN: Any = tyro.conf.SuppressFixed

_CONVENTION = (tyro.conf.FlagConversionOff, tyro.conf.UseAppendAction)
"""Flags as `_one_form` writes them: each with a value, those of lists once for each value."""


def _one_form(words: Sequence[str], options: Any, default: Any) -> tuple[list[str], Any]:
    """The words with `--flag=True` for a bare flag and `--list=a --list=b` for a list, and the default value without
    the lists that are given: they replace it, and are not appended to it."""
    known = {flag.name: flag for flag in flags(options)}
    negated = {_negated(name): name for name, flag in known.items() if _bare(flag.hint) is bool}
    written: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        given, equals, value = word.partition("=")
        name = given.removeprefix("--").replace("_", "-") if given.startswith("--") else ""
        flag = known.get(name)
        if name in negated and not equals:
            written.append(f"--{negated[name]}=False")
        elif flag and _bare(flag.hint) is bool:
            if not equals and rest and rest[0].lower() in ("true", "false"):
                value = rest.pop(0)
            written.append(f"--{name}={value.capitalize() or True}")
        elif flag and _is_list(flag.hint):
            values = [value] if equals else []
            while rest and not equals and not _is_flag(rest[0]):
                values.append(rest.pop(0))
            default = default if default is None else _emptied(default, flag.path)
            written += [f"--{name}={each}" for each in values]
        else:
            written.append(word)
    return written, default


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and neither a negative number nor a text that begins with a dash."""
    return re.match(r"--?[A-Za-z][\w.-]*(=|$)", word) is not None


def _negated(flag: str) -> str:
    """data.shuffle → data.no-shuffle, as --no-FLAG is written for a flag of a part of the run."""
    part, dot, name = flag.rpartition(".")
    return f"{part}{dot}no-{name}"


def _is_list(hint: Any) -> bool:
    """Whether a type is a tuple of any length."""
    kind = _bare(hint)
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def _emptied(options: Any, path: tuple[str, ...]) -> Any:
    """A configuration with an empty list in the place of one. It is not checked: tyro makes the one that is used."""
    first, *rest = path
    emptied = copy(options)
    object.__setattr__(emptied, first, _emptied(getattr(options, first), tuple(rest)) if rest else ())
    return emptied


def _narrow(page: str) -> Iterator[str]:
    """The lines of a help page, wrapped to the width of the terminal; tyro wraps its boxes and not the text above."""
    width = shutil.get_terminal_size().columns
    for line in page.splitlines():
        boxed = line.startswith(("│", "╭", "╰")) or "\x1b" in line
        yield line if boxed else textwrap.fill(line, width, subsequent_indent="    " * line.startswith("usage:"))


class _HeldBack(io.StringIO):
    """Output, held back: tyro frames the sentence of a `UserError`, which the command line prints plainly."""

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake that led to an exception, if there was one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


@cache
def _show_rules(kind: type) -> None:
    """Add the rules of each field to the hint that follows its help: "(default: 1; at least 1)".

    tyro reads hints from the annotations of the class, so they are extended there, once.
    """
    annotations = dict(kind.__annotations__)
    hints = get_type_hints(kind, include_extras=True)
    for f in fields(kind):
        if f.name not in annotations:
            continue
        if (words := describe(kind, f.name)) or _is_list(hints[f.name]):
            hint = tyro.conf.arg(help_behavior_hint=_Hint(words, is_list=_is_list(hints[f.name])))
            annotations[f.name] = Annotated[hints[f.name], hint]
    kind.__annotations__ = annotations


@cache
def _join_lines(kind: type) -> None:
    """Let tyro wrap the docstring of each field as one paragraph: it keeps line breaks within it, wherever they are."""
    docstrings, hints = field_docstrings(kind), get_type_hints(kind, include_extras=True)
    kind.__annotations__ = kind.__annotations__ | {
        name: Annotated[hints[name], tyro.conf.arg(help=docstrings[name])]
        for name in kind.__annotations__
        if name in docstrings
    }


class _Hint:
    """The hint of a flag: its default, as tyro writes it, and its rules."""

    def __init__(self, words: str, *, is_list: bool = False) -> None:
        self.words, self.is_list = words, is_list

    def __call__(self, default: str) -> str:
        known = f"default: {default}" if (default and default != "None") or not self.is_list else ""
        return f"({'; '.join(filter(None, (known, 'one or several' if self.is_list else '', self.words)))})"

    def __hash__(self) -> int:
        return hash((self.words, self.is_list))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hint) and (self.words, self.is_list) == (other.words, other.is_list)


def refuse_old_flags(words: Sequence[str], options: Any) -> None:
    """Raise UserError for a flag under its earlier name, naming the present one."""
    known = dict(_old_names(options))
    for word in words:
        flag = re.match(r"--([a-z0-9_.-]+)", word)
        if flag and (new := known.get(flag[1].replace("_", "-"))):
            raise UserError(f"--{flag[1]} is now {new}.")


def _old_names(options: Any) -> Iterator[tuple[str, str]]:
    """The earlier names of flags with the present ones, of a configuration or its class."""
    for flag in flags(options):
        for rule in rules(flag.kind)[flag.path[-1]]:
            if isinstance(rule, Formerly):
                note = f", {rule.note}" if rule.note else ""
                part = flag.name.rpartition(".")[0]
                yield ".".join(filter(None, (part, rule.name.replace("_", "-")))), f"called --{flag.name}{note}"


_FLAT = ("run", "request", "chosen")
"""Fields whose own fields are flags without a prefix."""


class Flag(NamedTuple):
    """A flag: its name without the dashes, the attributes that lead to its field, the class of the field, its type."""

    name: str
    path: tuple[str, ...]
    kind: Any
    hint: Any


def flags(options: Any, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[Flag]:
    """The flags of a configuration or its class, those of nested configurations too."""
    named = isinstance(options, type) or get_origin(options) is not None
    kind: Any = (get_origin(options) or options) if named else type(options)
    parts = dict(zip(getattr(kind, "__parameters__", ()), get_args(options), strict=False))
    hints = get_type_hints(kind, include_extras=True)
    for f in fields(kind):
        hint = parts.get(_bare(hints[f.name]), hints[f.name])
        value = default_of(f) if named else getattr(options, f.name)
        inner = value if is_dataclass(value) and not isinstance(value, type) else _bare(hint)
        flag = Flag(f"{prefix}{_given_name(hint) or f.name}".replace("_", "-"), (*path, f.name), kind, hint)
        if is_dataclass(inner):
            yield from flags(inner, prefix if f.name in _FLAT else f"{flag.name}.", flag.path)
        else:
            yield flag


_MARK: Any = type(tyro.conf.arg(name="name"))


def _given_name(hint: Any) -> str | None:
    """The name of a flag where it is not that of its field, such as a word of Python."""
    marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((mark.name for mark in marks if isinstance(mark, _MARK) and mark.name), None)


def _bare(hint: Any) -> Any:
    """A type without its annotations."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
