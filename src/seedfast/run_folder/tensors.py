"""Tensors as safetensors files: one file for each group in a checkpoint, and one file of frozen weights beside them.

Weights that a run never changes (an adapter's base, a frozen encoder) are saved once, beside the checkpoints, under a
name that contains their hash. The manifest of each checkpoint lists that file with its hash, so a base that was lost
or changed counts as damage of the checkpoint, and no checkpoint needs the place that the base once came from.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedfast.files import FileDigest, file_digest, sync

FROZEN = "frozen"
"""The group of the weights that no step of the run changes."""

Groups = dict[str, dict[str, Tensor]]
"""Tensors by group ("model", "ema", "optimizer", "family", "frozen") and name."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors. Raises OSError, also for a full disk."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # safetensors' own error for a full disk


def save_shared(tensors: Mapping[str, Tensor], folder: Path) -> tuple[str, FileDigest]:
    """Commit frozen weights to one file in `folder`; returns its name and digest. Raises OSError.

    The same weights give the same name, so a repeated call replaces the file by an equal one.
    """
    attempt = folder / f"{FROZEN}.safetensors.tmp-{os.getpid()}"
    try:
        save_tensors(tensors, attempt)
        digest = file_digest(attempt)
        path = folder / f"{FROZEN}-{digest['sha256'][:16]}.safetensors"
        sync(attempt)
        attempt.replace(path)
    finally:
        attempt.unlink(missing_ok=True)
    sync(folder)
    return path.name, digest


def load_groups(folder: Path, shared: Collection[str], groups: Collection[str] | None = None) -> Groups:
    """The tensors of a checkpoint folder by group and name, on the CPU; other groups are not opened.

    shared: names of the files of frozen weights beside the folder. groups: None loads all; a group that the
    checkpoint does not have is absent from the result.
    """
    paths = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    for name in shared:
        paths[FROZEN] = folder.parent / name
    return {group: load_file(path) for group, path in paths.items() if groups is None or group in groups}
