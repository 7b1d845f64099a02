"""The help of `seedfast train RECIPE`: the flags that most trainings need. `--help-all` lists every one."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from seedfast.loop.config import Run, settings

_WIDTH = 80
_COLUMN = 26
_FLAGS = {
    "data": ("PATH …", "file, folder or hf:NAME to train on"),
    "model": ("PATH", "pretrained model to start from, of a folder or hub"),
    "size": ("NAME", "size of the network (seedfast recipes --sizes)"),
    "out": ("FOLDER", "run folder; the same command continues what is in it"),
    "steps": ("N", "optimizer steps of the run"),
    "epochs": ("X", "its length in passes over the data instead"),
    "minutes": ("X", "its length in time instead"),
    "batch-size": ("N", "examples in one step"),
    "optimizer.lr": ("X", "peak learning rate"),
    "eval-every": ("N", "steps between validations, or 0.5epoch"),
    "seed": ("N", "seed of every random number"),
    "precision": ("NAME", "fp32, bf16 or fp16"),
    "device": ("NAME", "auto, cpu or cuda"),
    "config": ("FILE", "YAML with fields of the run, such as a run.yaml"),
    "print-config": ("", "print the whole run as YAML instead of training"),
    "quiet": ("", "print nothing but warnings and errors"),
}
"""Flag → (its value, one line of help)."""


def help_page(recipe: str, run: Run) -> str:
    """The help of a recipe, of at most 80 columns."""
    values = settings(run)
    useless = {*([] if "model.path" in values else ["model"]), *([] if run.model.sizes() else ["size"])}
    shown = [flag for flag in _FLAGS if flag not in useless]
    return "\n".join(
        [
            f"usage: seedfast train {recipe} [flags]",
            "",
            *(_line(flag, *_FLAGS[flag], _default(recipe, flag, values)) for flag in shown),
            "",
            "Every field of the run is a flag; a folder's run is continued bit for bit.",
            f"seedfast train {recipe} --help-all lists them all.",
        ]
    )


def listing(entries: Mapping[str, str]) -> Iterator[str]:
    """Names with what they are, of at most 80 columns."""
    for name, what in entries.items():
        yield textwrap.fill(f"  {name:<21} {what}", _WIDTH, subsequent_indent=" " * 24)


def _default(recipe: str, flag: str, values: dict[str, Any]) -> str:
    """The recipe's value of a flag, in words; "" where it has none."""
    if flag == "out":
        return f"runs/{recipe}"
    value = values.get({"data": "data.path", "model": "model.path"}.get(flag, flag.replace("-", "_")))
    return "" if value in (None, "") else str(value)


def _line(flag: str, value: str, what: str, default: str) -> str:
    line = f"  {f'--{flag} {value}'.rstrip():<{_COLUMN - 2}}{what}"
    known = f"{line} ({default})"
    return known if default and len(known) <= _WIDTH else line
