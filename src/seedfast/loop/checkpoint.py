"""Checkpoints that are either whole or absent, whatever kills the process, and that know whether they are intact.

Layout: `checkpoints/step-00002000/` holds the files and `manifest.json` with their sizes and SHA-256 hashes. A flipped
byte loads silently from safetensors as from any other format, hence the hashes; a folder that is written over and
killed half-way loads as a mixture of old and new, hence fresh folders only.

The commit: write and fsync every file in `step-N.tmp-<attempt>/`, then the manifest, then the folder; rename; fsync
the parent; then the pointers (`latest.json`). A committed folder is never written to again.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seedfast.errors import UserError
from seedfast.files import commit, sha256, sync, to_json

MANIFEST = "manifest.json"
_COMMITTED = re.compile(r"step-(\d{8,})")


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
            files = self.manifest["files"]
        except (OSError, ValueError, KeyError) as error:
            return [f"{self.folder / MANIFEST} cannot be read ({error})"]
        found = []
        for name, facts in files.items():
            path = self.folder / name
            if not path.is_file():
                found.append(f"{path} is missing")
            elif path.stat().st_size != facts["size"]:
                found.append(f"{path} has {path.stat().st_size} bytes instead of {facts['size']}")
            elif sha256(path) != facts["sha256"]:
                found.append(f"{path} does not have the contents that were committed (its SHA-256 differs)")
        return found


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

        A damaged one is named on stderr and the next older one is taken. Raises UserError if none verifies.
        """
        candidates = [c for c in reversed(self.committed()) if at is None or c.step == at]
        for candidate in candidates:
            problems = candidate.problems()
            if not problems:
                return candidate
            print(
                f"seedfast: WARNING: checkpoint {candidate.folder.name} is damaged: {'; '.join(problems)}",
                file=sys.stderr,
            )
        if candidates:
            raise UserError(
                f"None of the {len(candidates)} checkpoints in {self.folder} is intact; restore one from a backup, "
                "or train in another folder. Nothing has been changed."
            )
        if at is not None:
            raise UserError(
                f"{self.folder} has no checkpoint at step {at}; it has {[c.step for c in self.committed()]}."
            )
        return None

    def save(self, step: int, write: Callable[[Path], None], facts: dict[str, Any]) -> Checkpoint:
        """Commit what `write` puts into the folder that it is given, and let go of checkpoints past retention.

        Raises OSError (disk full, I/O) with nothing committed and nothing left behind.
        """
        final = self.folder / f"step-{step:08d}"
        if final.exists():
            return Checkpoint(final, step)  # saved already, by the validation or the interval of this very step
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        attempt = self.folder / f"{final.name}.tmp-{os.getpid()}"
        try:
            attempt.mkdir()
            write(attempt)
            files = {}
            for path in sorted(p for p in attempt.rglob("*") if p.is_file()):
                sync(path)
                files[str(path.relative_to(attempt))] = {"size": path.stat().st_size, "sha256": sha256(path)}
            commit(attempt / MANIFEST, to_json({"step": step, "files": files, **facts}))
            for folder in sorted({path.parent for path in attempt.rglob("*")}, reverse=True):
                sync(folder)
            attempt.rename(final)
        except OSError:
            shutil.rmtree(attempt, ignore_errors=True)
            raise
        sync(self.folder)
        commit(self.run_folder / "latest.json", to_json({"step": step, "checkpoint": final.name}))
        return Checkpoint(final, step)

    def retire(self, *, protected: set[int]) -> None:
        """Remove committed checkpoints beyond the newest `keep`, except the protected steps (the best ones)."""
        for old in self.committed()[: -self.keep]:
            if old.step not in protected:
                self._discard(old.folder)

    def set_aside_after(self, step: int) -> list[Path]:
        """Rename the checkpoints later than `step` (damaged ones, or those that a rewind abandons) out of the way.

        Their new names end in `.aside-N`; nothing reads or removes them any more.
        """
        moved = []
        for later in self.committed():
            if later.step > step:
                taken = len(list(self.folder.glob(f"{later.folder.name}.aside-*")))
                moved.append(later.folder.rename(later.folder.with_name(f"{later.folder.name}.aside-{taken + 1}")))
        return moved

    def _discard(self, folder: Path) -> None:
        """Rename first: a kill during the removal leaves rubbish with a rubbish's name, not half a checkpoint."""
        rubbish = folder.with_name(f"{folder.name}.trash-{os.getpid()}")
        folder.rename(rubbish)
        shutil.rmtree(rubbish)

    def _sweep(self) -> None:
        """Remove what killed attempts left behind. The run's lock says that no other process is writing here."""
        for path in self.folder.iterdir():
            if re.search(r"\.(tmp|trash)-\d+$", path.name):
                shutil.rmtree(path)
