"""`seedfast recipes`, `seedfast report` and `seedfast completion`."""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

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
    tyro.cli(
        _everything(),
        prog="seedfast",
        args=["--tyro-print-completion", asked.shell],
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    return 0


def _everything() -> Any:
    """The whole command line as one type, which only the completion script is made from."""
    from seedfast.cli import COMMANDS, adopt, images, measure, preview, sample, share, train
    from seedfast.cli.verify import PROOFS
    from seedfast.families.request import TextRequest
    from seedfast.recipes import RECIPES, make

    def one_of(choices: dict[str, Any]) -> Any:
        return make_dataclass("Choice", [("choice", Union[tuple(choices.values())])])  # noqa: UP007

    def named(name: str, what: str, shape: Any, **default: Any) -> Any:
        return Annotated[shape, tyro.conf.subcommand(name, description=what, **default)]

    shapes: dict[str, Any] = {
        "recipes": Recipes,
        "preview": preview.Preview,
        "train": one_of(
            {
                name: named(name, what, train.Train, default=train.Train(out=Path("runs") / name, run=make(name)))
                for name, (_, what) in RECIPES.items()
            }
        ),
        "evaluate": measure.Evaluate,
        "sample": sample.Sample[TextRequest],
        "fidelity": images.Fidelity,
        "import": adopt.Import,
        "export": share.Export,
        "push": share.Push,
        "report": Report,
        "digest": measure.Digest,
        "verify": one_of({name: named(name, what, shape) for name, (what, shape) in PROOFS.items()}),
        "completion": Completion,
    }
    return Union[tuple(named(name, COMMANDS[name][1], shape) for name, shape in shapes.items())]  # noqa: UP007
