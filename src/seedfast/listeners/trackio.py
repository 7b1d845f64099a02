"""The journal, copied to trackio; this module is also its background process (see `tracker`)."""

import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from seedfast.listeners.tracker import TrackerListener, identity, input_ended, run_process
from seedfast.run_folder.journal import follow, sample_files, scalars


class TrackioListener(TrackerListener):
    """Copies the run to a project of trackio, which keeps it in a SQLite file of this machine."""

    package = "trackio"
    title = "trackio"


def copy(folder: Path, project: str) -> None:
    """Log the journal of the run in `folder` as it grows, until standard input ends.

    All sessions of a run append to one run of trackio: runs are known by their names, so that of the folder is followed
    by the id in `trackio.id`. Steps that it already has are not logged again.
    """
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{folder.absolute().name}-{identity(folder / 'trackio.id')}"
    config = yaml.safe_load((folder / "run.yaml").read_text())
    run = trackio.init(project, name=name, resume="allow", config=config, embed=False, auto_log_gpu=False)
    last = SQLiteStorage.get_max_step_for_run(project, name)
    for entry in follow(folder, input_ended):
        values = {**scalars(entry), **_samples(folder, entry)}
        if values and (last is None or entry["step"] > last):
            run.log(values, step=entry["step"])
    run.finish()


def _samples(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures and texts that an entry names."""
    import trackio

    found: dict[str, Any] = {}
    for name, file in sample_files(folder, entry).items():
        if file.suffix == ".png":
            found[name] = trackio.Image(str(file))
        elif file.suffix == ".txt":
            found[name] = trackio.Html(f"<pre>{escape(file.read_text())}</pre>")
    return found


def main(arguments: list[str]) -> int:
    """The background process."""
    return run_process(copy, arguments, ValueError)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
