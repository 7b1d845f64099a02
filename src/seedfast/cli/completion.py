"""`seedfast completion`: a script of the shell, made from the table of commands and the types of their flags."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from seedfast.cli.arguments import Flag, flags, parse
from seedfast.cli.shells import SCRIPTS, Entry

Shell = Literal["bash", "zsh", "fish", "tcsh"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a completion script.

    bash: seedfast completion bash > ~/.local/share/bash-completion/completions/seedfast

    zsh: seedfast completion zsh > ~/.zfunc/_seedfast, a folder of $fpath

    fish: seedfast completion fish > ~/.config/fish/completions/seedfast.fish
    """

    shell: tyro.conf.Positional[Shell]
    """The shell that will read it."""


def completion(words: list[str]) -> int:
    """Print a completion script for every command, recipe, flag and run folder."""
    asked: Completion = parse(Completion, words, prog="seedfast completion")
    print(SCRIPTS[asked.shell](entries()), end="")
    return 0


def entries() -> list[Entry]:
    """What can follow each command, and each choice of a command that has choices (recipes, proofs, data sets)."""
    from seedfast.cli import COMMANDS

    found = []
    for name, what in COMMANDS.items():
        module = import_module(f"seedfast.cli.{'import_run' if name == 'import' else name}")
        shapes = _choices(name, module)
        if shapes:
            found.append(Entry((name,), what, (), tuple(shapes), takes_path=False))
            found += [_entry((name, choice), what, shape) for choice, (what, shape) in shapes.items()]
        else:
            found.append(_entry((name,), what, _shape(module)))
    return found


def _choices(name: str, module: Any) -> Mapping[str, tuple[str, Any]]:
    """The choices that a command begins with, each with a summary and the type of its flags."""
    if name == "train":
        from seedfast.recipes import RECIPES, make

        return {recipe: (what, module.Train(out=Path(), run=make(recipe))) for recipe, (_, what) in RECIPES.items()}
    choices: Mapping[str, tuple[str, Any]] = getattr(module, "CHOICES", {})
    return choices


def _shape(module: Any) -> Any:
    """The type of a command's flags: the first dataclass of its module, with the requests of every family."""
    kinds: list[Any] = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    shape = next(kind for kind in kinds if kind.__module__ == module.__name__)
    if getattr(shape, "__parameters__", ()) and any(f.name == "request" for f in fields(shape)):
        from seedfast.families.caption.request import CaptionRequest
        from seedfast.families.image.request import ImageRequest
        from seedfast.families.text.causal_sampler import AutoregressiveRequest
        from seedfast.families.text.embedding.sampling import EmbeddingRequest
        from seedfast.families.text.proofreading.sampling import ProofreadingRequest

        requests = (AutoregressiveRequest, EmbeddingRequest, ProofreadingRequest, ImageRequest, CaptionRequest)
        return [shape[request] for request in requests]
    return shape


def _entry(words: tuple[str, ...], what: str, shape: Any) -> Entry:
    shapes = shape if isinstance(shape, list) else [shape]
    known = {flag.name: flag for each in shapes for flag in flags(each)}
    positional = [flag for flag in known.values() if _is_positional(flag)]
    values = tuple(value for flag in positional for value in _values(flag))
    named = {f"--{flag.name}": _values(flag) for flag in known.values() if flag not in positional}
    return Entry(words, what, tuple(named.items()), values, takes_path=bool(positional) and not values)


def _is_positional(flag: Flag) -> bool:
    mark = get_args(tyro.conf.Positional[str])[1]
    hint = get_type_hints(flag.kind, include_extras=True)[flag.path[-1]]
    return mark in getattr(hint, "__metadata__", ())


def _values(flag: Flag) -> tuple[str, ...]:
    """The words that a flag takes, where they are known."""
    return tuple(dict.fromkeys(_words(flag.hint)))


def _words(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from (str(value) for value in get_args(hint))
    elif hint is bool:
        yield from ("True", "False")
    else:
        for part in get_args(hint):
            if not isinstance(part, str | int | float):
                yield from _words(part)
