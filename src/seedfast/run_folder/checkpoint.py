"""A checkpoint: a sealed folder `checkpoints/step-00002000/` in a run folder.

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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from seedfast import sealed_folder
from seedfast.files import FileDigest
from seedfast.run_folder.records import BestRecord, CheckpointManifest, SavedState
from seedfast.sealed_folder import MANIFEST
from seedfast.untrusted import leads_out, read_json, regular

if TYPE_CHECKING:  # the report reads checkpoints without torch
    from torch import Tensor

    from seedfast.data.dataset import Fingerprint
    from seedfast.run_folder.tensors import Groups, Stored

_SHARED = re.compile(r"frozen-[0-9a-f]{16}\.safetensors")
_TENSORS = re.compile(r"(\w+)(?:/shard-\d+-model-\d+-of-\d+)?\.safetensors")
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


def best_steps(checkpoint: Checkpoint) -> set[int]:
    """The steps of the best validations that a checkpoint refers to; none if it is damaged."""
    try:
        return {record.step for record in checkpoint.best.values()}
    except (OSError, ValueError):
        return set()
