"""Tensors as safetensors files: one file for each group in a checkpoint, and one file of frozen weights beside them.

Weights that a run never changes (an adapter's base, a frozen encoder) are saved once, beside the checkpoints, under a
name that contains their hash. The manifest of each checkpoint lists that file with its hash, so a base that was lost
or changed counts as damage of the checkpoint, and no checkpoint needs the place that the base once came from.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seedfast.files import FileDigest, file_digest
from seedfast.optim.shards import heights, is_sharded

FROZEN = "frozen"
"""The group of the weights that no step of the run changes."""

_SHARDING = "DCP_SHARDING_INFO"  # the key in the header of a file of PyTorch's DCP
_HEADER_LIMIT = 16 << 20  # bytes: of about 100,000 tensors

Groups = dict[str, dict[str, Tensor]]
"""Tensors by group ("model", "ema", "optimizer", "family", "frozen") and name."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors. Raises OSError, also for a full disk."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # safetensors' own error for a full disk


def save_groups(groups: Groups, folder: Path) -> None:
    """Write each group as a file in a new folder. Raises OSError."""
    for group, tensors in groups.items():
        save_tensors(tensors, folder / f"{group}.safetensors")


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


@dataclass(frozen=True)
class Stored:
    """A tensor as files hold it: whole, or some of its rows in each. Memory is used for what is read of it.

    pieces: consecutive rows.
    """

    pieces: tuple[Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of the whole."""
        first = self.pieces[0]
        return torch.Size([sum(len(piece) for piece in self.pieces), *first.shape[1:]]) if first.ndim else first.shape

    def whole(self) -> Tensor:
        """All rows."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)

    def like(self, tensor: Tensor | None) -> Tensor:
        """The part that a process holds of a tensor of this shape, on its device; else the whole."""
        if not is_sharded(tensor) or tensor.shape != self.shape:
            return self.whole()
        from torch.distributed.tensor import DTensor

        mesh = tensor.device_mesh
        cut, rank = heights(len(tensor), mesh.size(-1)), mesh.get_local_rank(mesh.ndim - 1)
        rows = self._rows(sum(cut[:rank]), cut[rank]).to(tensor.device)
        return DTensor.from_local(
            rows, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def _rows(self, start: int, count: int) -> Tensor:
        found, first = [], 0
        for piece in self.pieces:
            low, high = max(start - first, 0), min(start + count - first, len(piece))
            if low < high:
                found.append(piece[low:high])
            first += len(piece)
        return torch.cat(found) if found else self.pieces[0][:0]


def load_groups(files: Mapping[str, Sequence[Path]], groups: Collection[str] | None = None) -> Groups:
    """The tensors of files by group, on the CPU; other groups' files are not opened.

    groups: None loads all; a group without a file is absent from the result.
    Raises OSError, or ValueError for a file that is not in the format.
    """
    return {
        group: {name: tensor.whole() for name, tensor in stored(paths).items()}
        for group, paths in files.items()
        if groups is None or group in groups
    }


def stored(paths: Sequence[Path]) -> dict[str, Stored]:
    """The tensors of a group by name.

    Raises OSError, or ValueError for a file that is not in the format, or if rows of a tensor are missing.
    """
    found: dict[str, list[tuple[int, Tensor]]] = {}
    for path in paths:
        for name, piece in _load(path).items():
            found.setdefault(name, []).append(piece)
    return {name: _joined(name, sorted(pieces, key=lambda piece: piece[0])) for name, pieces in found.items()}


def _joined(name: str, pieces: list[tuple[int, Tensor]]) -> Stored:
    """Pieces of a tensor, each with the number of its first row. Raises ValueError unless they fit together."""
    end, first = 0, pieces[0][1]
    for row, piece in pieces:
        if row != end or piece.shape[1:] != first.shape[1:] or piece.dtype != first.dtype:
            raise ValueError(f"{name} lacks rows, which another file of its checkpoint should hold")
        end += len(piece) if piece.ndim else 1
    return Stored(tuple(piece for _, piece in pieces))


def _load(path: Path) -> dict[str, tuple[int, Tensor]]:
    """The tensors of a file, each with the number of its first row."""
    with path.open("rb") as file:  # https://huggingface.co/docs/safetensors: the header's length comes first
        if int.from_bytes(file.read(8), "little") > _HEADER_LIMIT:
            raise ValueError(f"{path} has a header of more than {_HEADER_LIMIT} bytes")
    try:
        with safe_open(path, "pt") as file:
            places = json.loads((file.metadata() or {}).get(_SHARDING, "{}"))
            return {name: (_first_row(places.get(name)), file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is no file of tensors ({error})") from error


def _first_row(place: Mapping[str, Sequence[int]] | None) -> int:
    """The first row of a tensor in a file of DCP. Raises ValueError if it is cut along another dimension."""
    row, *others = (place or {}).get("saved_offsets") or [0]
    if not isinstance(row, int) or any(others):
        raise ValueError("its tensors are not cut into rows")
    return row
