"""`seedfast preview`."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.text import Text

from seedfast.cli.arguments import Trust, parse

_STYLES = {
    "mask": "cyan", "filled": "bold green", "changed": "bold red", "wrong": "bold red", "insert": "bold magenta",
    "delete": "bold yellow", "nothing": "dim",
}  # fmt: skip
_LABELS = ("SOURCE", "INPUT", "TARGET")


@dataclass(frozen=True, kw_only=True)
class PreviewFlags:
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
    trust: Trust = False


def preview(words: list[str]) -> int:
    """Show a few tasks; see `PreviewFlags` for the flags."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--samples")
    own.add_argument("--step")
    own.add_argument("--trust", action="store_true")
    known, rest = own.parse_known_args(words)
    if not rest or {"-h", "--help"} & set(rest):
        parse(PreviewFlags, ["--help"], prog="seedfast preview")
    given = {name: value for name, value in vars(known).items() if name != "trust" and value is not None}
    flags = [w for name, value in given.items() for w in (f"--{name}", value)]
    asked = parse(PreviewFlags, [rest[0], *flags], prog="seedfast preview")
    from seedfast import recipes
    from seedfast.cli.train import parse_run
    from seedfast.evaluate.preview import preview as tasks
    from seedfast.run_folder.choice import find
    from seedfast.user_code import named_by, named_by_user

    named_by_user(*rest)
    if (folder := Path(asked.what)).is_dir():
        stored = recipes.stored(find(folder).folder, trust=known.trust)
        parsed = parse_run(stored.recipe, [*rest[1:], "--out", asked.what], fresh=stored)
    else:
        parsed = parse_run(asked.what, rest[1:])
    with named_by(parsed.out, trust=known.trust):
        shown = tasks(parsed.run, count=asked.samples, step=asked.step)
    console = Console(highlight=False)
    for number, task in enumerate(shown):
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
