"""`seedfast completion`."""

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro


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
    from seedfast.cli import (
        COMMANDS,
        cache,
        digest,
        evaluate,
        export,
        fidelity,
        import_run,
        preview,
        push,
        recipes,
        report,
        sample,
        train,
    )
    from seedfast.cli.verify import PROOFS
    from seedfast.families.text.request import TextRequest
    from seedfast.recipes import RECIPES, make

    def one_of(choices: dict[str, Any]) -> Any:
        return make_dataclass("Choice", [("choice", Union[tuple(choices.values())])])  # noqa: UP007

    def named(name: str, what: str, shape: Any, **default: Any) -> Any:
        return Annotated[shape, tyro.conf.subcommand(name, description=what, **default)]

    shapes: dict[str, Any] = {
        "recipes": recipes.Recipes,
        "preview": preview.Preview,
        "train": one_of(
            {
                name: named(name, what, train.Train, default=train.Train(out=Path("runs") / name, run=make(name)))
                for name, (_, what) in RECIPES.items()
            }
        ),
        "evaluate": evaluate.Evaluate,
        "sample": sample.Sample[TextRequest],
        "fidelity": fidelity.Fidelity,
        "import": import_run.Import,
        "export": export.Export,
        "push": push.Push,
        "report": report.Report,
        "digest": digest.Digest,
        "cache": cache.Cache,
        "verify": one_of({name: named(name, what, shape) for name, (what, shape) in PROOFS.items()}),
        "completion": Completion,
    }
    return Union[tuple(named(name, COMMANDS[name], shape) for name, shape in shapes.items())]  # noqa: UP007
