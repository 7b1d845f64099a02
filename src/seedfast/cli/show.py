"""`seedfast recipes`, `seedfast report` and `seedfast completion`."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the ready runs. `seedfast train RECIPE --help` lists everything about one that can be changed."""


def recipes(words: list[str]) -> int:
    """List the recipes."""
    tyro.cli(Recipes, args=words, prog="seedfast recipes")
    from seedfast.recipes import RECIPES

    for name, (_, what) in RECIPES.items():
        print(f"{name:<22} {what}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a static page and PNG plots from a run's journal; works while the run is still going on."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def report(words: list[str]) -> int:
    """Write a run's report and print where it is."""
    asked = tyro.cli(Report, args=words, prog="seedfast report")
    from seedfast.report import page

    print(page.write(asked.run))
    return 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a completion script.

    For bash: seedfast completion bash > ~/.local/share/bash-completion/completions/seedfast
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """The shell that will read it."""


def completion(words: list[str]) -> int:
    """Print a completion script for every command, recipe and flag."""
    asked = tyro.cli(Completion, args=words, prog="seedfast completion")
    import shtab

    print(shtab.complete(_parser(), asked.shell))
    return 0


def _parser() -> ArgumentParser:
    """The whole command line as one parser, which only the completion script is made from."""
    from seedfast.cli import COMMANDS, measure, sample, train
    from seedfast.cli.verify import PROOFS
    from seedfast.recipes import RECIPES, make

    def add(to: Any, name: str, what: str, shape: Any, **default: Any) -> None:
        parser = tyro.extras.get_parser(shape, config=(tyro.conf.FlagConversionOff,) if default else (), **default)
        to.add_parser(name, help=what, parents=[parser], add_help=False, conflict_handler="resolve")

    whole = ArgumentParser(prog="seedfast")
    commands = whole.add_subparsers()
    shapes: dict[str, Any] = {
        "recipes": Recipes, "evaluate": measure.Evaluate, "sample": sample.Sample, "report": Report,
        "digest": measure.Digest, "completion": Completion,
    }  # fmt: skip
    for name, shape in shapes.items():
        add(commands, name, COMMANDS[name][1], shape)
    of_train = commands.add_parser("train", help=COMMANDS["train"][1]).add_subparsers()
    for recipe, (_, what) in RECIPES.items():
        add(
            of_train,
            recipe,
            what,
            train.Train,
            default=train.Train(out=Path("runs") / recipe, run=make(recipe)),
        )
    of_verify = commands.add_parser("verify", help=COMMANDS["verify"][1]).add_subparsers()
    for name, (what, shape) in PROOFS.items():
        add(of_verify, name, what, shape)
    return whole
