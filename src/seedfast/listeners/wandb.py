"""The journal, copied to Weights & Biases by a process beside the training that follows the file.

`python -m seedfast.listeners.wandb RUN PROJECT` is that process. It ends when its standard input does, which the
training holds open, so it outlives no training, however that ends.
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
from seedfast.listeners.background import Aside
from seedfast.listeners.base import Listener, Warn
from seedfast.run_folder.journal import follow, scalars

PATIENCE = 60.0
"""Seconds that a finished run waits for what is still on its way; an interrupted one waits for a sixth of it."""
_INTERVAL = 0.5  # seconds between looks at the journal


class WandB(Listener):
    """Sees that the process lives, and lets it go at the end."""

    def __init__(self, run_folder: Path, project: str, warn: Warn) -> None:
        """Raises UserError if the package is missing."""
        if find_spec("wandb") is None:
            raise UserError(
                "--wandb needs the package wandb; install it (pip install 'seedfast[wandb]') or leave the option out: "
                "the journal has every number too."
            )
        self._folder, self._warn = run_folder, warn
        self._process: Aside | None = Aside("seedfast.listeners.wandb", str(run_folder), project)

    def line(self, entry: Mapping[str, Any]) -> None:
        """The process reads it for itself."""
        if self._process and not self._process.is_running:
            self._settle(0)

    def close(self, *, finished: bool) -> None:
        """Wait until everything has arrived, but not for ever."""
        self._settle(PATIENCE if finished else PATIENCE / 6)

    def _settle(self, seconds: float) -> None:
        process, self._process = self._process, None
        if process and (fault := process.end(seconds)):
            self._warn(f"Weights & Biases does not have the whole run ({fault}); {self._folder}/journal.jsonl does")


def copy(folder: Path, project: str) -> None:
    """Send the journal of the run in `folder` as it grows, until standard input ends.

    One run of Weights & Biases for all sessions: its name is kept in `wandb.id`, and what it has is not sent again.
    """
    import wandb

    note = folder / "wandb.id"
    if not note.is_file():
        commit(note, uuid.uuid4().hex[:12])
    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True, x_save_requirements=False,
        x_stats_pid=os.getppid(), init_timeout=PATIENCE / 2, finish_timeout=PATIENCE / 2,
    )  # fmt: skip
    run = wandb.init(
        project=project, id=note.read_text(), resume="allow", name=folder.absolute().name, dir=folder,
        config=yaml.safe_load((folder / "run.yaml").read_text()), settings=settings,
    )  # fmt: skip
    for entry in follow(folder, _is_over):
        if entry["step"] >= run.starting_step:
            run.log({**scalars(entry), **_samples(folder, entry)}, step=entry["step"])
    run.finish()


def _is_over() -> bool:
    """Whether the training has ended, after a while."""
    return bool(select.select([sys.stdin], [], [], _INTERVAL)[0])


def _samples(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures and texts that an entry names."""
    import wandb

    found: dict[str, Any] = {}
    for file in (folder / name for name in entry.get("samples", ())):
        if file.suffix == ".png":
            found[f"samples/{file.stem}"] = wandb.Image(str(file))
        elif file.suffix == ".txt":
            found[f"samples/{file.stem}"] = wandb.Html(f"<pre>{escape(file.read_text())}</pre>", inject=False)
    return found


def main(words: list[str]) -> int:
    """The process: what goes wrong is one line on stderr."""
    import wandb

    try:
        copy(Path(words[0]), words[1])
    except (wandb.errors.Error, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
