"""What a run folder says about its run, besides the journal."""

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seedfast.errors import UserError
from seedfast.families.profile import Profile
from seedfast.run_folder.checkpoint import Checkpoint, Checkpoints

_EARLIER_SHOWN = 10  # steps
_SAMPLES_SHOWN = 20_000  # characters of a file of samples
_PICTURES = {".png": "image/png", ".gif": "image/gif"}
_PICTURES_SHOWN = 8


@dataclass(frozen=True)
class Sampled:
    """A file of samples, by its name in the run folder: a text, or a picture with its media type."""

    name: str
    text: str | None = None
    picture: bytes | None = None
    media: str = "text/plain"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The files of a run folder as values.

    text: `run.yaml` as it stands. run: what it holds. best, latest: the pointers, empty before they exist.
    events: what happened to the process, oldest first. manifests: of each committed checkpoint, oldest first;
    None for one that cannot be read. samples: the files of the newest samples. earlier: the first text of each step
    before, oldest first; of many, some that are evenly spread.
    """

    path: Path
    text: str
    run: Mapping[str, Any]
    best: Mapping[str, Mapping[str, Any]]
    latest: Mapping[str, Any]
    events: list[Mapping[str, Any]]
    manifests: list[tuple[Checkpoint, Mapping[str, Any] | None]]
    samples: list["Sampled"]
    earlier: list["Sampled"]
    trainer: bool
    """Whether the process that last took the folder's lock is alive on this machine."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The newest that can be read; empty before there is one."""
        readable = [manifest for _, manifest in self.manifests if manifest is not None]
        return readable[-1] if readable else {}

    @property
    def profiles(self) -> dict[str, Profile]:
        """Which diagnostics the family says are the points of one curve."""
        known = self.manifest.get("family", {}).get("profiles", {})
        return {title: Profile(**record) for title, record in known.items()}


def read(path: Path) -> Folder:
    """Read a run folder, also while it is being written. Raises UserError if it is none."""
    text, run = _run(path)
    samples, earlier = _samples(path / "samples")
    return Folder(
        path=path,
        text=text,
        run=run,
        best=_best(path / "best.json"),
        latest=_json(path / "latest.json"),
        events=_events(path / "events.jsonl"),
        manifests=[(checkpoint, _manifest(checkpoint)) for checkpoint in Checkpoints(path).committed()],
        samples=samples,
        earlier=earlier,
        trainer=_trainer_lives(path / "lock"),
    )


def _run(path: Path) -> tuple[str, Mapping[str, Any]]:
    if not path.is_dir():
        raise UserError(f"There is no run folder {path}.")
    try:
        text = (path / "run.yaml").read_text()
        run = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(f"{path} has no run.yaml, so it is not a run of seedfast.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path / 'run.yaml'} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(run, dict) or not isinstance(run.get("steps"), int) or "recipe" not in run:
        raise UserError(
            f"{path / 'run.yaml'} names no recipe or no number of steps, so {path} is not a run of seedfast."
        )
    return text, run


def _json(path: Path) -> Mapping[str, Any]:
    """A pointer: empty as long as nothing has been committed."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return value


def _best(path: Path) -> Mapping[str, Mapping[str, Any]]:
    best = _json(path)
    for record in best.values():
        if not isinstance(record, dict) or not record.keys() >= {"step", "loss", "standard_error", "examples", "draws"}:
            raise UserError(f"{path} does not hold the best validations of a run of seedfast.")
    return best


def _events(path: Path) -> list[Mapping[str, Any]]:
    """A line that is still being written, or that a kill left half-written, is passed over."""
    if not path.is_file():
        return []
    events: list[Mapping[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _manifest(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    try:
        return checkpoint.manifest
    except (OSError, ValueError):
        return None


def _samples(path: Path) -> tuple[list[Sampled], list[Sampled]]:
    """The texts and pictures of the latest step, whose number is in its folder's name, and texts of those before."""
    steps = sorted(path.glob("step-*/"), key=lambda step: [int(n) for n in re.findall(r"\d+", step.name)])
    if not steps:
        return [], []
    *before, newest = steps
    texts, pictures = sorted(newest.glob("*.txt")), [f for f in sorted(newest.iterdir()) if f.suffix in _PICTURES]
    latest = [_text(file, path.parent) for file in texts] + [
        Sampled(str(file.relative_to(path.parent)), picture=file.read_bytes(), media=_PICTURES[file.suffix])
        for file in pictures[:_PICTURES_SHOWN]
    ]
    count = min(len(before), _EARLIER_SHOWN)
    chosen = [before[index * len(before) // count] for index in range(count)]
    firsts = [sorted(step.glob("*.txt"))[:1] for step in chosen]
    return latest, [_text(file, path.parent) for files in firsts for file in files]


def _text(path: Path, run_folder: Path) -> Sampled:
    with path.open(errors="replace") as file:
        text = file.read(_SAMPLES_SHOWN + 1)
    if len(text) > _SAMPLES_SHOWN:
        text = f"{text[:_SAMPLES_SHOWN]}\n\n[… the file goes on]"
    return Sampled(str(path.relative_to(run_folder)), text)


def _trainer_lives(path: Path) -> bool:
    """Told from the owner's name in the lock. Trying the lock itself would get in a starting process's way."""
    try:
        owner = re.fullmatch(r"process (\d+) on (.+)", path.read_text().strip())
        if owner is None or owner[2] != socket.gethostname():
            return False
        os.kill(int(owner[1]), 0)
    except PermissionError:
        return True  # somebody else's process, but a living one
    except OSError:
        return False
    return True
