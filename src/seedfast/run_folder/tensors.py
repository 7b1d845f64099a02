"""What a run never changes (an adapter's base, a frozen encoder) is kept once for all its checkpoints.

The file lies beside the checkpoints under the name of its contents. Each checkpoint's manifest lists it with its hash,
so a base that was lost or changed is refused like any other damage, and no checkpoint needs where it once came from.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from seedfast.files import FileDigest, file_digest, sync


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors. Raises OSError, also where the disk is full."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # its name for a full disk


def keep(tensors: Mapping[str, Tensor], folder: Path) -> tuple[str, FileDigest]:
    """Commit the tensors to a file in `folder`, unless it is there; returns its name and facts. Raises OSError."""
    attempt = folder / f"frozen.safetensors.tmp-{os.getpid()}"
    try:
        save_tensors(tensors, attempt)
        known = file_digest(attempt)
        path = folder / f"frozen-{known['sha256'][:16]}.safetensors"
        sync(attempt)
        attempt.replace(path)
    finally:
        attempt.unlink(missing_ok=True)
    sync(folder)
    return path.name, known
