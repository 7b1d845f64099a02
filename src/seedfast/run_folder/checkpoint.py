"""Checkpoints that are either whole or absent, whatever kills the process, and that know whether they are intact.

Layout: `checkpoints/step-00002000/` holds the files and `manifest.json` with their sizes and SHA-256 hashes. A flipped
byte loads silently from safetensors as from any other format, hence the hashes; a folder that is written over and
killed half-way loads as a mixture of old and new, hence fresh folders only.

The commit: write and fsync every file in `step-N.tmp-<attempt>/`, then the manifest, then the folder; rename; fsync
the parent; then the pointers (`latest.json`). A committed folder is never written to again.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from seedfast.errors import UserError
from seedfast.files import FileDigest, commit, file_digest, sha256, sync, to_json

MANIFEST = "manifest.json"
_COMMITTED = re.compile(r"step-(\d{8,})")
_RUBBISH = re.compile(r"\.(tmp|trash)-\d+$")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint folder."""

    folder: Path
    step: int

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Step, hashes, versions, fingerprint and metrics, as committed."""
        manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text())
        return manifest

    def problems(self) -> list[str]:
        """What is wrong with this checkpoint, a sentence for each file; empty if it is intact."""
        try:
            manifest = dict(self.manifest)
            seal, files = manifest.pop("seal"), manifest["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{self.folder / MANIFEST} cannot be read ({error})"]
        if seal != _seal(manifest):
            return [f"{self.folder / MANIFEST} does not have the contents that were committed"]
        found = []
        for name, known in files.items():
            path = Path(os.path.normpath(self.folder / name))
            if not path.is_file():
                found.append(f"{path} is missing")
            elif path.stat().st_size != known["size"]:
                found.append(f"{path} has {path.stat().st_size} bytes instead of {known['size']}")
            elif sha256(path) != known["sha256"]:
                found.append(f"{path} does not have the contents that were committed (its SHA-256 differs)")
        return found

    def hold(self) -> bool:
        """Keep it from being removed for as long as this process uses it; False if it is gone already."""
        try:
            handle = (self.folder / MANIFEST).open("rb")
        except OSError:
            return False
        fcntl.flock(handle, fcntl.LOCK_SH)
        _HELD[self.folder] = handle
        return self.folder.is_dir()

    def release(self) -> None:
        """It has been read: let it go."""
        if handle := _HELD.pop(self.folder, None):
            handle.close()


_HELD: dict[Path, BinaryIO] = {}  # open files, whose locks last until they are released or the process ends


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(manifest).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, *, keep: int = 2) -> None:
        """keep: how many of the newest committed checkpoints are retained, besides the best ones."""
        self.run_folder = run_folder
        self.folder = run_folder / "checkpoints"
        self.keep = keep

    def committed(self) -> list[Checkpoint]:
        """Every committed checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = ((path, _COMMITTED.fullmatch(path.name)) for path in self.folder.iterdir())
        return sorted((Checkpoint(path, int(m[1])) for path, m in matches if m), key=lambda c: c.step)

    def newest(self, *, at: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that verifies, or the one at step `at`; None where nothing was ever committed.

        It is held: nobody removes it while this process lives. A damaged one is named on stderr and the next older
        one is taken. Raises UserError if none verifies.
        """
        committed = self.committed()
        candidates = [c for c in reversed(committed) if at is None or c.step == at]
        for candidate in candidates:
            if not candidate.hold():
                if (candidate.folder / MANIFEST).parent.is_dir():
                    _warn(candidate, [f"{candidate.folder / MANIFEST} is missing"])
                    continue
                return self.newest(at=at)  # training went on and let go of it in this instant
            problems = candidate.problems()
            if not problems:
                return candidate
            _warn(candidate, problems)
        steps = [c.step for c in committed]
        if at is not None:
            raise UserError(f"{self.folder} has no intact checkpoint at step {at}; it has checkpoints at {steps}.")
        if candidates:
            raise UserError(
                f"None of the {len(candidates)} checkpoints in {self.folder} is intact; restore one from a backup, "
                "or train in another folder. Nothing has been changed."
            )
        return None

    def save(self, step: int, write: Callable[[Path], Mapping[str, FileDigest] | None], about: dict[str, Any]) -> None:
        """Commit what `write` puts into the folder that it is given; nothing to do if this step is committed.

        write: returns the facts of the files beside the checkpoints that this one relies on, by name, if any.
        Raises OSError (disk full, I/O) with nothing committed and nothing left behind.
        """
        final = self.folder / f"step-{step:08d}"
        if final.exists():
            return  # by the validation or the interval of this very step
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        attempt = self.folder / f"{final.name}.tmp-{os.getpid()}"
        try:
            attempt.mkdir()
            files = {f"../{name}": known for name, known in (write(attempt) or {}).items()}
            for path in sorted(p for p in attempt.rglob("*") if p.is_file()):
                sync(path)
                files[str(path.relative_to(attempt))] = file_digest(path)
            manifest = {"step": step, "files": files, **about}
            commit(attempt / MANIFEST, to_json({**manifest, "seal": _seal(manifest)}))
            for folder in sorted({path.parent for path in attempt.rglob("*")}, reverse=True):
                sync(folder)
            attempt.rename(final)
        except BaseException:
            shutil.rmtree(attempt, ignore_errors=True)
            raise
        sync(self.folder)

    def point(self, step: int, best: dict[str, Any], *, protected: set[int]) -> None:
        """Make the pointers and the retained checkpoints those of step `step`. Doing it twice changes nothing.

        Retained are the newest `keep`, the protected steps (the best ones, of each retained state), and any that
        another process is reading.
        """
        commit(self.run_folder / "latest.json", to_json({"step": step, "checkpoint": f"step-{step:08d}"}))
        commit(self.run_folder / "best.json", to_json(best))
        for old in self.committed()[: -self.keep]:
            if old.step not in protected and not _in_use(old):
                self._discard(old.folder)
        self.sweep()

    def set_aside_after(self, step: int) -> list[Path]:
        """Rename the checkpoints later than `step` (damaged ones, or those that a rewind abandons) out of the way.

        Their new names end in `.aside-N`; nothing reads or removes them any more.
        """
        moved = []
        for later in reversed(self.committed()):  # a kill on the way leaves an unbroken line of older ones
            if later.step > step:
                names = (
                    path.suffix.removeprefix(".aside-") for path in self.folder.glob(f"{later.folder.name}.aside-*")
                )
                number = max((int(name) for name in names if name.isdigit()), default=0) + 1
                moved.append(later.folder.rename(later.folder.with_name(f"{later.folder.name}.aside-{number}")))
        if moved:
            sync(self.folder)
        return moved

    def _discard(self, folder: Path) -> None:
        """Rename first: a kill during the removal leaves rubbish with a rubbish's name, not half a checkpoint."""
        rubbish = folder.with_name(f"{folder.name}.trash-{os.getpid()}")
        folder.rename(rubbish)
        shutil.rmtree(rubbish)

    def sweep(self) -> None:
        """Remove what killed attempts left behind. The run's lock says that no other process is writing here."""
        for path in [*self.folder.iterdir(), *self.run_folder.iterdir()]:
            if _RUBBISH.search(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _in_use(checkpoint: Checkpoint) -> bool:
    """Whether another process holds it: training has a lock of its own on the run, readers have none but this."""
    try:
        with (checkpoint.folder / MANIFEST).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # without a manifest nobody can be reading it
    return False


def _warn(checkpoint: Checkpoint, problems: list[str]) -> None:
    print(f"seedfast: WARNING: checkpoint {checkpoint.folder.name} is damaged: {'; '.join(problems)}", file=sys.stderr)
