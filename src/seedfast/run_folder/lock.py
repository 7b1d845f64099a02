"""The lock of a run folder: one process at a time trains in it."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seedfast.errors import UserError
from seedfast.run_folder.links import refuse_links
from seedfast.untrusted import read_bytes

_LONGEST = 1 << 10  # bytes of a lock file


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder. The kernel releases it when the owner dies, also by SIGKILL.

    Raises UserError with the name of the owner if another process holds it, or for links that lead out of the folder.
    """
    refuse_links(run_folder)
    with (run_folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{owner} is training in {run_folder}; wait until it ends, or use another --out.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the process may live on and train no more


def owner_is_alive(run_folder: Path) -> bool:
    """Whether the process that last locked the folder lives on this machine, by its number in the lock file.

    Trying the lock itself could make a process that starts now fail.
    """
    try:
        owner = re.fullmatch(r"process (\d+) on (.+)", read_bytes(run_folder / "lock", limit=_LONGEST).decode().strip())
        if owner is None or owner[2] != socket.gethostname():
            return False
        os.kill(int(owner[1]), 0)
    except PermissionError:
        return True  # the process of another user, but alive
    except (OSError, OverflowError, ValueError):
        return False
    return True
