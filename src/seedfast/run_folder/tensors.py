"""Tensors as safetensors files: one file for each group in a checkpoint, and one file of frozen weights beside them.

Weights that a run never changes (an adapter's base, a frozen encoder) are saved once, beside the checkpoints, under a
name that contains their hash. The manifest of each checkpoint lists that file with its hash, so a base that was lost
or changed counts as damage of the checkpoint, and no checkpoint needs the place that the base once came from.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedfast.files import FileDigest, file_digest

FROZEN = "frozen"
"""The group of the weights that no step of the run changes."""

_HEADER_LIMIT = 16 << 20  # bytes: of about 100,000 tensors

Groups = dict[str, dict[str, Tensor]]
"""Tensors by group ("model", "ema", "optimizer", "family", "frozen") and name."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors. Raises OSError, also for a full disk."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # safetensors' own error for a full disk


class Staging:
    """Memory of the host that holds a copy of tensors while they are written; the next copy uses it again."""

    def __init__(self) -> None:
        self._memory: Groups = {}

    def copy(self, groups: Groups) -> Groups:
        """A copy of all tensors, which is complete on return. The copy before it must not be in use any more."""
        self._memory = {
            group: {name: _like(tensor, self._memory.get(group, {}).get(name)) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                self._memory[group][name].copy_(tensor, non_blocking=True)
        for device in {tensor.device for tensors in groups.values() for tensor in tensors.values()}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return {group: dict(tensors) for group, tensors in self._memory.items()}


def _like(tensor: Tensor, earlier: Tensor | None) -> Tensor:
    """Memory of the host for a copy of a tensor: the earlier one, where it fits. Pinned memory is copied to faster."""
    if earlier is not None and (earlier.shape, earlier.dtype) == (tensor.shape, tensor.dtype):
        return earlier
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def save_shared(tensors: Mapping[str, Tensor], folder: Path) -> tuple[str, FileDigest]:
    """Write frozen weights to one file in `folder`, an attempt's parent; returns its name and digest. Raises OSError.

    The same weights give the same name, so the commit replaces the file by an equal one.
    """
    path = folder / f"{FROZEN}.safetensors"
    save_tensors(tensors, path)
    digest = file_digest(path)
    return path.rename(folder / f"{FROZEN}-{digest['sha256'][:16]}.safetensors").name, digest


def load_groups(files: Mapping[str, Path], groups: Collection[str] | None = None) -> Groups:
    """The tensors of files by group, on the CPU; other groups' files are not opened.

    groups: None loads all; a group without a file is absent from the result.
    Raises OSError, or ValueError for a file that is not in the format.
    """
    return {group: _load(path) for group, path in files.items() if groups is None or group in groups}


def _load(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:  # https://huggingface.co/docs/safetensors: the header's length comes first
        if int.from_bytes(file.read(8), "little") > _HEADER_LIMIT:
            raise ValueError(f"{path} has a header of more than {_HEADER_LIMIT} bytes")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no file of tensors ({error})") from error
    return tensors
