"""The journal, copied to Weights & Biases by a background process that follows the file.

`python -m seedfast.listeners.wandb RUN PROJECT` is that process. It ends when its standard input ends, which the
training holds open, so it never outlives the training.
"""

import os
import select
import sys
import uuid
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from seedfast.errors import UserError
from seedfast.files import commit
from seedfast.listeners.background import BackgroundProcess
from seedfast.listeners.base import Listener, Warn
from seedfast.run_folder.journal import Entry, follow, sample_files, scalars

PATIENCE = 60.0
"""Seconds that a finished run waits for pending data; an interrupted run waits for a sixth of it."""
_INTERVAL = 0.5  # seconds between reads of the journal


class WandbListener(Listener):
    """Starts the background process, watches it, and ends it with the session."""

    def __init__(self, run_folder: Path, project: str, warn: Warn) -> None:
        """Raises UserError if the package is missing."""
        if find_spec("wandb") is None:
            raise UserError(
                "--wandb needs the package wandb; install it (pip install 'seedfast[wandb]') or leave the option out: "
                "the journal has every number too."
            )
        self._folder, self._warn = run_folder, warn
        self._process: BackgroundProcess | None = BackgroundProcess(
            "seedfast.listeners.wandb", str(run_folder), project
        )

    def on_entry(self, entry: Entry) -> None:
        """Check that the process lives; it reads the journal itself."""
        if self._process and not self._process.is_running:
            self._finish(0)

    def close(self, *, finished: bool) -> None:
        """Wait until all data has been sent, up to `PATIENCE`."""
        self._finish(PATIENCE if finished else PATIENCE / 6)

    def _finish(self, seconds: float) -> None:
        process, self._process = self._process, None
        if process and (failure := process.end(seconds)):
            self._warn(f"Weights & Biases does not have the whole run ({failure}); {self._folder}/journal.jsonl does")


def copy(folder: Path, project: str) -> None:
    """Send the journal of the run in `folder` as it grows, until standard input ends.

    All sessions of a run append to one run of Weights & Biases, whose id is in `wandb.id`. Steps that it already has
    are not sent again.
    """
    import wandb

    id_file = folder / "wandb.id"
    if not id_file.is_file():
        commit(id_file, uuid.uuid4().hex[:12])
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True, x_save_requirements=False,
        x_stats_pid=os.getppid(), init_timeout=PATIENCE / 2, finish_timeout=PATIENCE / 2,
    )  # fmt: skip
    run = wandb.init(
        project=project, id=id_file.read_text(), resume="allow", name=folder.absolute().name, dir=folder,
        config=yaml.safe_load((folder / "run.yaml").read_text()), settings=settings,
    )  # fmt: skip
    for entry in follow(folder, _input_ended):
        if entry["step"] >= run.starting_step:
            run.log({**scalars(entry), **_samples(folder, entry)}, step=entry["step"])
    run.finish()


def _input_ended() -> bool:
    """Whether the training has ended, after waiting for `_INTERVAL`."""
    return bool(select.select([sys.stdin], [], [], _INTERVAL)[0])


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
    """The background process. An error is one line on stderr and the exit status 1."""
    import wandb

    try:
        copy(Path(arguments[0]), arguments[1])
    except (wandb.errors.Error, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
