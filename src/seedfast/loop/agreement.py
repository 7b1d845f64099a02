"""What all processes of a training must have in common. Otherwise they would train something that nobody asked for."""

import hashlib
from pathlib import Path

import torch

from seedfast import user_code
from seedfast.errors import UserError
from seedfast.loop.distributed import DistributedContext


def code_digest() -> str:
    """SHA-256 of the code of this process: seedfast, the files of the user that have run, and the version of torch."""
    package = Path(__file__).parents[1]
    total = hashlib.sha256(torch.__version__.encode())
    for file in sorted(package.rglob("*.py")):
        total.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return total.hexdigest() + "".join(sorted(user_code.executed()))


def refuse_differences(distributed: DistributedContext, **facts: str) -> None:
    """Raise UserError, on all processes, unless each of these facts is the same on all: code, options, data."""
    first, *others = distributed.all_gather(facts)
    for rank, theirs in enumerate(others, start=1):
        if unequal := [name for name, value in facts.items() if theirs[name] != first[name]]:
            raise UserError(
                f"Process {rank} of {distributed.world_size} has other {' and '.join(unequal)} than process 0: start "
                "all with the same command, the same versions of seedfast and torch, and the same files."
            )
