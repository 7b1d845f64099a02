"""The files that `seedfast sample --animate` and `--gif` write."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from seedfast.cli.arguments import check_output
from seedfast.errors import UserError

_ENDINGS = {"animate": ".html", "gif": ".gif"}


def filmed(request: Any, files: Mapping[str, Path], *, beside: str | None) -> Any:
    """The request with its frames kept, for these files by the names of their flags.

    Raises UserError for a family without frames, a name with another ending, or with `--beside`.
    """
    flag = next(iter(files))
    if "trace" not in {f.name for f in fields(request)}:
        raise UserError(f"Captions are written by a search that has no steps to show: leave --{flag} out.")
    if beside:
        raise UserError(f"--{flag} shows the samples of one kind of weights: leave --beside out.")
    for name, path in files.items():
        check_output(name, path, _ENDINGS[name])
    return replace(request, trace=True)


def without_frames(samples: Any) -> Any:
    """The samples to print, where the frames were kept for a file only."""
    return replace(samples, filmed=[]) if hasattr(samples, "filmed") else samples


def write(files: Mapping[str, Path], samples: Any, model: Any, request: Any, seed: int) -> None:
    """Write the animation of some samples into these files, and print their names."""
    from seedfast.console import put
    from seedfast.files import commit
    from seedfast.report.animation.page import page
    from seedfast.report.animation.picture import animation

    for name, path in files.items():
        facts = [fact for fact in (model.origin, model.decoding(request), f"seed {seed}") if fact]
        title = model.run.recipe or "Samples"
        commit(path, page(title, facts, samples.films) if name == "animate" else animation(samples.films))
        put(str(path))
