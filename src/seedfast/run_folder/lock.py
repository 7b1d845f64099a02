"""One process at a time in a run folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seedfast.errors import UserError


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """Hold the run folder's lock. The kernel lets go of it when its owner dies, however it dies.

    Raises UserError naming the owner if another process holds it.
    """
    with (run_folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{owner} is training in {run_folder}; wait for it, or use another --out.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
