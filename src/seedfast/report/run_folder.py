"""The files of a run folder that the report shows, besides the journal."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedfast.errors import UserError
from seedfast.families.measure import Measure
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.lock import owner_is_alive
from seedfast.run_folder.records import CheckpointManifest, read_best
from seedfast.untrusted import read_bytes, read_json, read_yaml

_EARLIER_SHOWN = 10  # steps
_SAMPLES_SHOWN = 20_000  # characters of a text file of samples
_PICTURES = {".png": "image/png", ".gif": "image/gif"}
_PICTURES_SHOWN = 8
_LARGEST = 64 << 20  # bytes of a file


@dataclass(frozen=True)
class SampleFile:
    """A file of samples, by its path in the run folder: a text, or a picture with its media type."""

    name: str
    text: str | None = None
    picture: bytes | None = None
    media: str = "text/plain"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The files of a run folder as values.

    text: the text of `run.yaml`. run: its contents. best, latest: the pointers, empty before they exist.
    events: start, resume, interruption and warnings of the process, oldest first. manifests: each committed checkpoint
    with its manifest, oldest first; None for a manifest that cannot be read. samples: the files of the newest samples.
    earlier: the texts and the first picture of each earlier step, oldest first; of many steps, an evenly spread choice.
    is_training: whether the process that last locked the folder is alive on this machine.
    """

    path: Path
    text: str
    run: Mapping[str, Any]
    best: Mapping[str, Mapping[str, Any]]
    latest: Mapping[str, Any]
    events: list[Mapping[str, Any]]
    manifests: list[tuple[Checkpoint, CheckpointManifest | None]]
    samples: list[SampleFile]
    earlier: list[SampleFile]
    is_training: bool

    @property
    def manifest(self) -> CheckpointManifest | None:
        """The newest manifest that can be read; None before there is one."""
        readable = [manifest for _, manifest in self.manifests if manifest is not None]
        return readable[-1] if readable else None

    @property
    def measure(self) -> Measure:
        """The units of the loss and the curves of the diagnostics, as of the newest checkpoint."""
        return self.manifest.measure if self.manifest else Measure()


def read(path: Path) -> Folder:
    """Read a run folder, also while it is being written. Raises UserError if it is no run folder."""
    text, run = _run(path)
    samples, earlier = _samples(path / "samples")
    return Folder(
        path=path,
        text=text,
        run=run,
        best=read_best(path),
        latest=_json(path / "latest.json"),
        events=_events(path / "events.jsonl"),
        manifests=[(checkpoint, _manifest(checkpoint)) for checkpoint in Checkpoints(path).committed()],
        samples=samples,
        earlier=earlier,
        is_training=owner_is_alive(path),
    )


def _run(path: Path) -> tuple[str, Mapping[str, Any]]:
    if not path.is_dir():
        raise UserError(f"There is no run folder {path}.")
    try:
        run = read_yaml(path / "run.yaml")
        text = (path / "run.yaml").read_text("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} has no run.yaml, so it is not a run of seedfast.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'run.yaml'} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(run, dict) or not isinstance(run.get("steps"), int) or "recipe" not in run:
        raise UserError(
            f"{path / 'run.yaml'} names no recipe or no number of steps, so {path} is not a run of seedfast."
        )
    return text, run


def _json(path: Path) -> Mapping[str, Any]:
    """A pointer; empty before the first commit."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return value


def _events(path: Path) -> list[Mapping[str, Any]]:
    """The events. A line that is incomplete (still being written, or cut by a kill) is skipped."""
    events: list[Mapping[str, Any]] = []
    for line in _content(path, path.parent).decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _content(path: Path, run_folder: Path) -> bytes:
    """The contents of a file that the report copies; none of a missing one. Raises UserError for a link that leads out
    of the run folder, which would publish what the user keeps elsewhere, and for a file that is too large."""
    try:
        return read_bytes(path, limit=_LARGEST, root=run_folder)
    except FileNotFoundError:
        return b""
    except ValueError as error:
        raise UserError(f"{error}.") from None


def _manifest(checkpoint: Checkpoint) -> CheckpointManifest | None:
    try:
        return checkpoint.manifest
    except (OSError, ValueError):
        return None


def _samples(path: Path) -> tuple[list[SampleFile], list[SampleFile]]:
    """The texts and pictures of the latest step, and of earlier ones. A folder is named after its step."""
    steps = sorted(path.glob("step-*/"), key=lambda step: [int(n) for n in re.findall(r"\d+", step.name)])
    if not steps:
        return [], []
    *before, newest = steps
    count = min(len(before), _EARLIER_SHOWN)
    chosen = [before[index * len(before) // count] for index in range(count)]
    earlier = [file for step in chosen for file in _step_samples(step, path.parent, pictures=1)]
    return _step_samples(newest, path.parent, pictures=_PICTURES_SHOWN), earlier


def _step_samples(step: Path, run_folder: Path, *, pictures: int) -> list[SampleFile]:
    """The texts of a step, and at most so many pictures."""
    files = sorted(step.iterdir())
    texts = [_text(file, run_folder) for file in files if file.suffix == ".txt"]
    shown = [file for file in files if file.suffix in _PICTURES][:pictures]
    return texts + [
        SampleFile(str(file.relative_to(run_folder)), picture=_content(file, run_folder), media=_PICTURES[file.suffix])
        for file in shown
    ]


def _text(path: Path, run_folder: Path) -> SampleFile:
    text = _content(path, run_folder).decode(errors="replace").replace("\r\n", "\n")
    if len(text) > _SAMPLES_SHOWN:
        text = f"{text[:_SAMPLES_SHOWN]}\n\n[… truncated]"
    return SampleFile(str(path.relative_to(run_folder)), text)
