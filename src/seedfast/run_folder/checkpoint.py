"""Checkpoints: sealed folders `checkpoints/step-00002000/` in a run folder, and pointers to the latest and the best.

A checkpoint is either whole or absent, whatever kills the process (see `sealed_folder.py`), and it is verified against
the hashes of its manifest before it is used. It holds everything that is needed to use it alone.

    model, ema, optimizer, family .safetensors   the tensors by group; those that no step changes are in a shared file
    model/shard-00001-….safetensors, …           the same of several processes, each with its rows (see `shards.py`)
    state.json                                   step, schedule, best validations, gradient scaler
    run.yaml, data.json, assets/                 the resolved run, the fingerprint of the data, tokenizer or classes
    manifest.json                                sizes, hashes, versions, topology, the validation of this step
"""

import fcntl
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from seedfast import sealed_folder
from seedfast.console import warn
from seedfast.errors import UserError
from seedfast.files import FileDigest, commit, sync, to_json
from seedfast.run_folder.links import refuse_links
from seedfast.run_folder.records import BestRecord, CheckpointManifest, SavedState
from seedfast.run_folder.tidying import Tidying
from seedfast.sealed_folder import MANIFEST
from seedfast.untrusted import leads_out, read_json, regular

if TYPE_CHECKING:  # the report reads checkpoints without torch
    from torch import Tensor

    from seedfast.data.dataset import Fingerprint
    from seedfast.run_folder.tensors import Groups, Stored

_SHARED = re.compile(r"frozen-[0-9a-f]{16}\.safetensors")
_TENSORS = re.compile(r"(\w+)(?:/shard-\d+-model-\d+-of-\d+)?\.safetensors")
_COMMITTED = re.compile(r"step-(\d{8,})")
_FINGERPRINT_LIMIT = 1 << 30  # bytes; it has a line for each source file


def step_name(step: int) -> str:
    """The name of a folder that belongs to a step, such as "step-00002000"."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint folder. Its properties read the files when they are first used, and then once."""

    folder: Path
    step: int

    @staticmethod
    def of(folder: Path) -> "Checkpoint":
        """The checkpoint in a folder of any name; its step is that of its manifest. Raises OSError or ValueError."""
        manifest = CheckpointManifest.read(folder)
        checkpoint = Checkpoint(folder, manifest.step)
        vars(checkpoint)["manifest"] = manifest  # where the cached property keeps it
        return checkpoint

    @cached_property
    def manifest(self) -> CheckpointManifest:
        """Hashes, versions, topology, measure and validation, as committed. Raises OSError or ValueError."""
        return CheckpointManifest.read(self.folder)

    @cached_property
    def state(self) -> SavedState:
        """`state.json`. Raises OSError or ValueError."""
        return SavedState.read(self.folder)

    @property
    def best(self) -> Mapping[str, BestRecord]:
        """The best committed validation up to this step, by kind of weights ("raw", "ema")."""
        return self.state.best

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return self.folder.parent.parent

    @cached_property
    def fingerprint(self) -> "Fingerprint":
        """The identity of the data that the run is trained on."""
        from seedfast.data.dataset import Fingerprint

        try:
            return Fingerprint(**read_json(self.folder / "data.json", limit=_FINGERPRINT_LIMIT))
        except TypeError as error:
            raise ValueError(f"{self.folder / 'data.json'} is no fingerprint of data: {error}") from error

    @property
    def assets(self) -> Path:
        """The folder of the assets of the data (tokenizer, class names)."""
        return self.folder / "assets"

    @property
    def groups(self) -> frozenset[str]:
        """The groups of tensors that this checkpoint has: "model", "ema", "optimizer", "family", "frozen"."""
        return frozenset(self.tensor_files)

    @property
    def shared(self) -> dict[str, FileDigest]:
        """The files beside the checkpoints that this one needs (frozen weights), by name."""
        files = self.manifest.files
        return {name.removeprefix("../"): digest for name, digest in files.items() if name.startswith("../")}

    @property
    def tensor_files(self) -> dict[str, list[Path]]:
        """The files of tensors by group, as the manifest lists them: what else lies in the folder is not read.

        A group is one file, or a folder with a file of each process.
        """
        files: dict[str, list[Path]] = {}
        for name in self.manifest.files:
            if found := _TENSORS.fullmatch(name):
                files.setdefault(found[1], []).append(sealed_folder.file_in(self.folder, name))
        for name in self.shared:
            files["frozen"] = [sealed_folder.file_in(self.folder, f"../{name}")]
        return files

    def tensors(self, *groups: str) -> "Groups":
        """The tensors of these groups (without arguments: of all) by group and name, on the CPU.

        The files of other groups are not opened. A group that the checkpoint does not have is absent.
        """
        from seedfast.run_folder.tensors import load_groups

        return load_groups(self.tensor_files, groups or None)

    def stored(self) -> "dict[str, dict[str, Stored]]":
        """All tensors by group and name, of which only the headers of the files are read at first."""
        from seedfast.run_folder.tensors import stored

        return {group: stored(paths) for group, paths in self.tensor_files.items()}

    def network_tensors(self, weights: str) -> "dict[str, Tensor]":
        """Every tensor of the network by name, with the "raw" or the averaged ("ema") weights."""
        group = "ema" if weights == "ema" else "model"
        groups = self.tensors(group, "frozen")
        # Checkpoints of earlier versions can list weights as frozen that have been trained since.
        return groups.get("frozen", {}) | groups.get(group, {})

    def problems(self) -> list[str]:
        """Hash every file; one sentence for each that is not as it was committed. Empty if the checkpoint is intact."""
        if leads_out(self.folder, self.folder.parent):
            return [f"{self.folder} is a link that leads out of the run folder"]
        if problems := [f"{fault.file} {fault.problem}" for fault in sealed_folder.faults(self.folder)]:
            return problems
        manifest = self.folder / MANIFEST
        try:
            strange = [name for name in self.shared if not _SHARED.fullmatch(name)]
        except (OSError, ValueError) as error:  # sealed by a program that writes another manifest
            return [f"{manifest} cannot be read ({error})"]
        return [f"{manifest} names {name}, which is no shared weights" for name in strange]

    def open(self) -> list[str] | None:
        """Verify the checkpoint and protect it from removal until `release` or the end of this process.

        Returns its `problems`, or None if it has been removed. A checkpoint that this process holds open is hashed only
        once, unless the time or the size of one of its files has changed.
        """
        if self.folder in _OPEN and _OPEN[self.folder].signature == self._signature():
            return []
        self.release()
        try:
            manifest = regular(self.folder / MANIFEST, self.folder).open("rb")
        except OSError:
            return [f"{self.folder / MANIFEST} is missing"] if self.folder.is_dir() else None
        except ValueError as error:
            return [str(error)]
        fcntl.flock(manifest, fcntl.LOCK_SH)
        problems = self.problems() if self.folder.is_dir() else None
        if problems == []:
            _OPEN[self.folder] = _Open(manifest, self._signature())
        else:
            manifest.close()
        return problems

    def release(self) -> None:
        """Allow its removal again, and forget that it was verified."""
        if held := _OPEN.pop(self.folder, None):
            held.manifest.close()

    def is_in_use(self) -> bool:
        """Whether another process holds it open. Training itself is kept out by the lock of the run folder."""
        try:
            with regular(self.folder / MANIFEST, self.folder).open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False  # no process opens a checkpoint without a manifest
        return False

    def _signature(self) -> "_Signature | None":
        """What changes when a file is written; None if a file is missing."""
        files = [self.folder / name for name in (MANIFEST, *self.manifest.files)]
        try:
            return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files))
        except OSError:
            return None


_Signature = tuple[tuple[int, int, int], ...]  # inode, size and modification time of each file


@dataclass(frozen=True)
class _Open:
    """A verified checkpoint that this process has open.

    manifest: the open file that carries the lock. signature: of the files when their hashes were right.
    """

    manifest: BinaryIO
    signature: _Signature | None


_OPEN: dict[Path, _Open] = {}  # a lock lasts until its file is closed or the process ends


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, *, keep: int = 2) -> None:
        """keep: number of the newest committed checkpoints that are retained, besides the best ones."""
        self.run_folder = run_folder
        self.folder = run_folder / "checkpoints"
        self.keep = keep
        self._tidying = Tidying()

    def committed(self) -> list[Checkpoint]:
        """Every committed checkpoint, oldest first. Raises UserError for a link that leads out of the run folder."""
        if not self.folder.is_dir():
            return []
        refuse_links(self.run_folder, self.folder.name)
        matches = ((path, _COMMITTED.fullmatch(path.name)) for path in self.folder.iterdir())
        return sorted((Checkpoint(path, int(m[1])) for path, m in matches if m), key=lambda c: c.step)

    def at(self, step: int) -> Checkpoint | None:
        """The committed checkpoint of a step, unverified."""
        folder = self.folder / step_name(step)
        return Checkpoint(folder, step) if folder.is_dir() else None

    def newest(self, *, at: int | None = None) -> Checkpoint | None:
        """Open the newest intact checkpoint, or the one at step `at`; None where nothing was ever committed.

        It is verified, and not removed while this process lives. A damaged one is named on stderr, and the next older
        one is taken. Raises UserError if none is intact.
        """
        committed = self.committed()
        candidates = [c for c in reversed(committed) if at is None or c.step == at]
        for candidate in candidates:
            problems = candidate.open()
            if problems is None:
                return self.newest(at=at)  # training has removed it a moment ago
            if not problems:
                return candidate
            found = f"checkpoint {candidate.folder.name} is damaged: {'; '.join(problems)}"
            if at is not None:
                raise UserError(f"The {found}; {self._others(committed, at)}.")
            warn(found)
        if at is not None:
            raise UserError(f"{self.folder} has no checkpoint at step {at}; {self._others(committed, at)}.")
        if candidates:
            raise UserError(
                f"None of the {len(candidates)} checkpoints in {self.folder} is intact; restore one from a backup, "
                "or train in another folder. Nothing has been changed."
            )
        return None

    def _others(self, committed: Sequence[Checkpoint], at: int) -> str:
        """Which checkpoints besides that of a step are intact, and why others are not, as a clause."""
        problems = {each.step: each.problems() for each in committed if each.step != at}
        intact = [str(step) for step, found in problems.items() if not found]
        damaged = [f"that of step {step} is damaged ({'; '.join(found)})" for step, found in problems.items() if found]
        found = [f"intact are those of the steps {', '.join(intact)} (name one with --at)"] if intact else []
        return ", and ".join([*found, *damaged]) or "there is no other"

    def save(
        self, step: int, write: Callable[[Path], Mapping[str, FileDigest] | None], facts: Mapping[str, Any]
    ) -> None:
        """Commit a checkpoint, unless this step is committed already.

        write: fills the folder that it receives; returns the digests of the shared files, which lie beside the
            checkpoints, by name. facts: further keys of the manifest.
        Raises OSError (disk full, I/O) with nothing committed and nothing left behind.
        """
        folder = self.folder / step_name(step)
        if folder.exists():
            return  # a validation and the saving interval can fall on the same step
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidying.sweep(self.folder)
        with sealed_folder.committing(folder) as attempt:
            attempt.outside.update(write(attempt.folder) or {})
            attempt.entries.update(facts, step=step)

    def update_pointers(self, step: int, best: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `latest.json` and `best.json` for the state at `step`, and remove the checkpoints not retained.

        best: the best validation by kind of weights. Retained are the newest `keep`, the best ones of this state and of
        each retained one (as a run may be resumed from it), and those that another process has open. One that cannot be
        removed is named once on stderr and stays. Idempotent. Raises OSError if a pointer cannot be written.
        """
        commit(self.run_folder / "latest.json", to_json({"step": step, "checkpoint": step_name(step)}))
        commit(self.run_folder / "best.json", to_json(best))
        committed = self.committed()
        retained = {record["step"] for record in best.values()}
        for checkpoint in committed[-self.keep :]:
            retained |= best_steps(checkpoint)
        for old in committed[: -self.keep]:
            if old.step not in retained and not old.is_in_use():
                self._tidying.discard(old.folder)
        self._tidying.sweep(self.folder)

    def quarantine_after(self, step: int) -> list[Path]:
        """Rename the checkpoints later than `step` (damaged ones, or those that a rewind abandons) to `*.aside-N`.

        Renamed checkpoints are neither read nor removed any more. Returns their new paths.
        """
        moved = []
        for later in reversed(self.committed()):  # the newest first, so that a kill leaves no gap below the newest
            if later.step > step:
                earlier = self.folder.glob(f"{later.folder.name}.aside-*")
                numbers = (path.suffix.removeprefix(".aside-") for path in earlier)
                number = max((int(number) for number in numbers if number.isdigit()), default=0) + 1
                moved.append(later.folder.rename(later.folder.with_name(f"{later.folder.name}.aside-{number}")))
        if moved:
            sync(self.folder)
        return moved


def best_steps(checkpoint: Checkpoint) -> set[int]:
    """The steps of the best validations that a checkpoint refers to; none if it is damaged."""
    try:
        return {record.step for record in checkpoint.best.values()}
    except (OSError, ValueError):
        return set()
