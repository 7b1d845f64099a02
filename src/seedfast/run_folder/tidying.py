"""Tidying: the removal of what a run no longer needs. It is no part of a commit, so it never ends a training."""

import re
from pathlib import Path

from seedfast import sealed_folder
from seedfast.console import warn

_EARLIER = re.compile(r"step-\d{8,}\.(tmp|trash)-\d+|frozen\.safetensors\.tmp-\d+")
_CHECKPOINT = re.compile(r"\w+\.safetensors|(state|data|manifest)\.json|run\.yaml|assets")


class Tidying:
    """Removes folders. What cannot be removed is named on stderr, once in a session, and left where it is."""

    def __init__(self) -> None:
        self._warned = False

    def discard(self, folder: Path) -> None:
        """Remove a checkpoint."""
        try:
            sealed_folder.discard(folder)
        except OSError as error:
            self._warn(error)

    def sweep(self, folder: Path) -> None:
        """Remove what killed processes left in the folder of checkpoints.

        The lock of the run keeps other writers out.
        """
        for error in sealed_folder.sweep(folder):
            self._warn(error)
        for path in folder.iterdir():
            if _is_of_version_0_1(path):
                self.discard(path)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            what, reason = error.filename or "An old checkpoint", error.strerror or error
            warn(f"{what} cannot be removed ({reason}); training continues")


def _is_of_version_0_1(path: Path) -> bool:
    """Whether a path is what a killed process of version 0.1 left: by its name and by all that it holds."""
    if not _EARLIER.fullmatch(path.name) or path.is_symlink():
        return False
    return path.is_file() or all(_CHECKPOINT.fullmatch(inner.name) for inner in path.iterdir())
