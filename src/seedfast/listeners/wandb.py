"""The journal, copied to Weights & Biases; this module is also its background process (see `tracker`)."""

import os
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from seedfast.listeners import tracker
from seedfast.listeners.tracker import TrackerListener, identity, input_ended, run_process
from seedfast.run_folder.journal import follow, sample_files, scalars


class WandbListener(TrackerListener):
    """Copies the run to a project of Weights & Biases."""

    package = "wandb"
    title = "Weights & Biases"


def copy(folder: Path, project: str) -> None:
    """Send the journal of the run in `folder` as it grows, until standard input ends.

    All sessions of a run append to one run of Weights & Biases, whose id is in `wandb.id`. Steps that it already has
    are not sent again.
    """
    import wandb

    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True, x_save_requirements=False,
        x_stats_pid=os.getppid(), init_timeout=tracker.PATIENCE / 2, finish_timeout=tracker.PATIENCE / 2,
    )  # fmt: skip
    run = wandb.init(
        project=project, id=identity(folder / "wandb.id"), resume="allow", name=folder.absolute().name, dir=folder,
        config=yaml.safe_load((folder / "run.yaml").read_text()), settings=settings,
    )  # fmt: skip
    for entry in follow(folder, input_ended):
        if entry["step"] >= run.starting_step:
            run.log({**scalars(entry), **_samples(folder, entry)}, step=entry["step"])
    run.finish()


def _samples(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures and texts that an entry names."""
    import wandb

    found: dict[str, Any] = {}
    for name, file in sample_files(folder, entry).items():
        if file.suffix == ".png":
            found[name] = wandb.Image(str(file))
        elif file.suffix == ".txt":
            found[name] = wandb.Html(f"<pre>{escape(file.read_text())}</pre>", inject=False)
    return found


def main(arguments: list[str]) -> int:
    """The background process."""
    import wandb

    return run_process(copy, arguments, wandb.errors.Error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
