"""The runs that the page shows, read from their folders alone. Clients name a run by its id, and never by a path."""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from seedfast.data.names import is_utf8
from seedfast.errors import UserError
from seedfast.evaluate.bare import is_bare
from seedfast.files import tree_size
from seedfast.loop.plain_config import flatten
from seedfast.run_folder.listing import RunSummary, runs_below
from seedfast.studio.curves import Curves
from seedfast.untrusted import leads_out, plain_path, read_bytes, read_yaml

_FRESH = 1.0  # seconds for which a list of runs is not read again
_LARGEST = 64 << 20  # bytes of a file of samples
MEDIA = {".png": "image/png", ".gif": "image/gif", ".txt": "text/plain; charset=utf-8"}
"""The media types of the sample files that are shown. SVG and HTML can hold scripts, so they are not among them."""


class UnknownError(UserError):
    """An id or a name that does not exist."""


class Runs:
    """The runs in some folders and below them, and folders of bare models.

    Raises UserError for a folder that does not exist.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._bare = [folder for folder in folders if folder.is_dir() and is_bare(folder)]
        self._folders = [folder for folder in folders if folder not in self._bare]
        self._paths: dict[str, Path] = {}
        self._curves: dict[str, Curves] = {}
        self._lines: list[dict[str, Any]] = []
        self._until = 0.0
        self._lock = Lock()
        self.listed()

    def listed(self) -> list[dict[str, Any]]:
        """Every run as in `seedfast runs`, with its id."""
        with self._lock:
            if time.monotonic() >= self._until:
                summaries = [*runs_below(self._folders), *map(_bare_summary, self._bare)]
                self._paths = {_id(each.path): each.path for each in summaries}
                self._lines = [_as_json(each) for each in summaries]
                self._until = time.monotonic() + _FRESH
            return self._lines

    def path(self, run: str) -> Path:
        """The folder of a run. Raises UnknownError for an id that is not listed."""
        if run not in self._paths:
            raise UnknownError(f"There is no run {run!r:.80} here: reload the list.")
        return self._paths[run]

    def curves(self, run: str) -> Curves:
        """The curves of a run. Raises UnknownError."""
        path = self.path(run)
        with self._lock:
            return self._curves.setdefault(run, Curves(path))

    def settings(self, runs: Sequence[str]) -> dict[str, list[Any]]:
        """The fields of the run.yaml of these runs, as rows, and for each run why it cannot be read (None: it can).

        A row has the dotted name of a field, its value in each run as text (None: the run has no such field), and
        whether the values of the runs that can be read differ. Raises UnknownError.
        """
        found = [_settings(self.path(run)) for run in runs]
        readable = [each for each in found if isinstance(each, dict)]
        rows = []
        for name in sorted({name for each in readable for name in each}):
            values = [each.get(name) if isinstance(each, dict) else None for each in found]
            differs = len({each.get(name) for each in readable}) > 1
            rows.append({"name": name, "values": values, "differs": differs})
        return {"rows": rows, "problems": [each if isinstance(each, str) else None for each in found]}

    def samples(self, run: str) -> list[dict[str, Any]]:
        """The files of samples of a run by their folder, newest step first. Raises UnknownError."""
        root = self.path(run)
        inside = [each for each in (root / "samples").glob("*/") if not leads_out(each, root)]
        folders = sorted((each for each in inside if is_utf8(each.name)), key=_number, reverse=True)
        found = []
        for folder in folders:
            names = sorted(file.name for file in folder.glob("*") if file.suffix in MEDIA and is_utf8(file.name))
            if names:
                shown = [f"samples/{folder.name}/{name}" for name in names]
                found.append({"name": folder.name, "files": shown})
        return found

    def file(self, run: str, name: str) -> tuple[bytes, str]:
        """The content of a file of samples, and its media type. Raises UnknownError for any other file."""
        root = self.path(run)
        media = MEDIA.get(Path(name).suffix)
        if media is None or not name.startswith("samples/"):
            raise UnknownError(f"{name!r:.80} is no file of samples.")
        try:
            return read_bytes(plain_path(root, name), limit=_LARGEST, root=root), media
        except (OSError, ValueError):
            raise UnknownError(f"{name!r:.80} cannot be read.") from None


def _id(path: Path) -> str:
    return hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:12]


def _as_json(each: RunSummary) -> dict[str, Any]:
    return {**asdict(each), "id": _id(each.path), "path": str(each.path)}


def _bare_summary(path: Path) -> RunSummary:
    """A model's own folder as a line of the list: it has no steps."""
    return RunSummary(
        path=path, recipe="model", step=0, steps=0, state="finished", best=None, is_bound=False,
        size=tree_size(path), changed=path.stat().st_mtime,
    )  # fmt: skip


def _number(folder: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d{1,18}", folder.name)], folder.name


def _settings(path: Path) -> dict[str, str] | str:
    """The settings of a run by their dotted names; a sentence for those that cannot be read."""
    if is_bare(path):
        return {}
    try:
        content = read_yaml(path / "run.yaml", root=path)
        if not isinstance(content, Mapping):
            raise ValueError("it has no fields")
    except (OSError, ValueError) as error:
        return f"run.yaml cannot be read ({' '.join(str(error).split())})."
    return {name: str(value) for name, value in flatten(content).items()}
