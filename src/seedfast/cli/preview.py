"""`seedfast preview`."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.text import Text

_STYLES = {
    "mask": "cyan", "filled": "bold green", "changed": "bold red", "wrong": "bold red", "insert": "bold magenta",
    "delete": "bold yellow", "nothing": "dim",
}  # fmt: skip
_LABELS = ("SOURCE", "INPUT", "TARGET")


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Show the task of a recipe without training: SOURCE, INPUT and TARGET of a few examples.

    █ is [MASK] (or a noisy embedding), ✗ [WRONG], ⊕ [INSERT], ⊖ [DELETE]; ∅ is a position without a token or without a
    target; ¶ is end-of-text and ⏎ the end of a line.
    For a recipe, all further flags are those of `seedfast train RECIPE`.
    """

    what: tyro.conf.Positional[str]
    """A recipe or a run folder."""
    samples: int = 5
    """Number of examples."""
    step: int | None = None
    """The training step of the curriculum (default: its end)."""


def preview(words: list[str]) -> int:
    """Show a few tasks; see `Preview` for the flags."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--samples")
    own.add_argument("--step")
    known, rest = own.parse_known_args(words)
    if not rest or {"-h", "--help"} & set(rest):
        tyro.cli(Preview, args=["--help"], prog="seedfast preview")
    flags = [w for name, value in vars(known).items() if value is not None for w in (f"--{name}", value)]
    asked = tyro.cli(Preview, args=[rest[0], *flags], prog="seedfast preview")
    from seedfast import recipes
    from seedfast.cli.train import parse_run
    from seedfast.evaluate.preview import preview as tasks

    if (folder := Path(asked.what)).is_dir():
        name = recipes.stored(folder).recipe
        run = parse_run(name, [*rest[1:], "--out", asked.what]).run
    else:
        run = parse_run(asked.what, rest[1:]).run
    console = Console(highlight=False)
    for number, task in enumerate(tasks(run, count=asked.samples, step=asked.step)):
        if number:
            console.print()
        for label, spans in zip(_LABELS, (task.source, task.inputs, task.targets), strict=True):
            if spans:
                line = Text(f"{label:<7} ", style="dim")
                line.append_text(Text.assemble(*((text, _STYLES.get(role, "not dim")) for text, role in spans)))
                console.print(line, soft_wrap=True)
        asks = Counter({role: 0 for _, role in task.targets})
        for text, role in task.targets:
            asks[role] += len(text)
        console.print(Text("        " + ", ".join(f"{count} {role}" for role, count in asks.items()), style="dim"))
    return 0
