"""The runs below a folder, each with how far it has come, its best loss, and the space that it takes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedfast.errors import UserError
from seedfast.files import tree_size
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.lock import owner_is_alive
from seedfast.run_folder.records import read_best
from seedfast.untrusted import UntrustedError, read_json, read_yaml

State = Literal["training", "finished", "interrupted", "stopped", "not finished", "unreadable"]
"""training: its process lives. finished: it has taken all of its steps, or stopped early. interrupted: by Ctrl-C or
SIGTERM, after saving. stopped: its numbers diverged. not finished: its process was killed, or failed. unreadable: its
files are not those of a run."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in a line.

    step: of the last line of the journal. best: the best validation loss by the metric of the run, with its
    standard_error; None before the first. is_bound: whether that bounds the loss from above. size: bytes of the
    folder. changed: seconds since the epoch. problem: why a run is unreadable.
    """

    path: Path
    recipe: str
    step: int
    steps: int
    state: State
    best: dict[str, Any] | None
    is_bound: bool
    size: int
    changed: float
    problem: str = ""


def runs_below(folders: Sequence[Path]) -> list[RunSummary]:
    """The runs in these folders and below them, by their paths. Links are not followed.

    A run that is removed meanwhile is left out. Raises UserError for a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: name one that holds runs; seedfast train begins a run.")
    paths = {path for folder in folders for path in _run_folders(folder)}
    found = [summary(path) for path in sorted(paths)]
    return [each for each in found if each.path.exists()]


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        if "run.yaml" in files and "manifest.json" not in files:  # a checkpoint has both
            yield Path(path)
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]


def summary(path: Path) -> RunSummary:
    """A run folder in a line. What cannot be read is described and not raised: another run is listed all the same."""
    try:
        return _summary(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError | UntrustedError):
            problem = " ".join(str(error).split())
        elif isinstance(error, OSError) and error.filename:
            problem = f"{Path(error.filename).name} cannot be read ({error.strerror})"
        else:
            problem = "run.yaml, latest.json, best.json or journal.jsonl does not hold what it should"
        return RunSummary(
            path=path, recipe="?", step=0, steps=0, state="unreadable", best=None, is_bound=False,
            size=tree_size(path), changed=_modified(path), problem=problem,
        )  # fmt: skip


def _summary(path: Path) -> RunSummary:
    try:
        run = read_yaml(path / "run.yaml", root=path)
    except ValueError as error:
        raise UserError(f"run.yaml cannot be read ({error}).") from None
    steps, recipe, newest = int(run["steps"]), str(run["recipe"]), 0
    with suppress(FileNotFoundError):
        newest = int(read_json(path / "latest.json", root=path)["step"])
    records = [{**record, "weights": kind} for kind, record in read_best(path).items()]
    entry: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        entry = journal.last(path)
    step = max(newest, entry.get("step", 0))
    return RunSummary(
        path=path,
        recipe=recipe,
        step=step,
        steps=steps,
        state=_state(path, newest, steps),
        best=min(records, key=lambda record: float(record["loss"])) if records else None,
        is_bound=_is_bound(path),
        size=tree_size(path),
        changed=max(map(_modified, (path, *path.glob("*.json*")))),
    )


def _modified(path: Path) -> float:
    """When a file was changed last; 0 for one that was removed meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _state(path: Path, newest: int, steps: int) -> State:
    if owner_is_alive(path):
        return "training"
    event = ""
    with suppress(FileNotFoundError):
        event = journal.last(path, "events.jsonl").get("event", "")
    if newest >= steps:
        return "finished"
    known: dict[str, State] = {"finished": "finished", "interrupted": "interrupted", "stopped": "stopped"}
    return known.get(event, "not finished")


def _is_bound(path: Path) -> bool:
    """Whether the loss is a bound, as the newest checkpoint that can be read says."""
    for checkpoint in reversed(Checkpoints(path).committed()):
        with suppress(OSError):  # a folder of this name that is no checkpoint
            return checkpoint.manifest.measure.is_bound
    return False
