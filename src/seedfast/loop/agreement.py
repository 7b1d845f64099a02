"""What all processes of a run have to agree on, and how they report that they do not: by one sentence, of rank 0."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch.distributed.distributed_c10d import _get_default_store

from seedfast import user_code
from seedfast.errors import TrainingStopped, UserError
from seedfast.files import sha256
from seedfast.loop.config import Run, settings
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.lost_ranks import TOLD, error_key, failed, within
from seedfast.version import VERSION

_LEFT = "rank has left"
"""Key of the store of the group, with the number of the rank."""


def check_same_run(run: Run, place: DistributedContext) -> None:
    """Raise UserError on all ranks if their options, their versions or their code differ."""
    if place.world_size == 1:
        return
    own = {f"option {name}": value for name, value in settings(run).items()}
    check_same(own | {"version": VERSION, "version of torch": torch.__version__, "code": _code()}, place)


def check_same(own: Mapping[str, object], place: DistributedContext) -> None:
    """Raise UserError on all ranks unless these values, by name, are the same on all."""
    first, *others = place.all_gather({name: str(value) for name, value in own.items()})
    for rank, other in enumerate(others, start=1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UserError(
                    f"Process {rank} of this run has another {name} ({other.get(name)}) than process 0 "
                    f"({first.get(name)}): start all with the same command, code and data."
                )


def _code() -> str:
    """A digest of the code of this package and of the files of the user that are executed, in 16 digits."""
    return hashlib.sha256(f"{_package()} {sorted(user_code.executed().values())}".encode()).hexdigest()[:16]


@cache
def _package() -> str:
    folder = Path(__file__).parents[1]
    return str([(str(file.relative_to(folder)), sha256(file)) for file in sorted(folder.rglob("*.py"))])


@contextmanager
def one_sentence(place: DistributedContext) -> Iterator[None]:
    """Within it, an error of any process is printed once: by rank 0, which has it too or learns it from the others.

    An error of another process reaches rank 0 through the store of the group. If rank 0 does not take it over in time,
    the process prints it itself.
    """
    if place.world_size == 1:
        yield
        return
    store = _get_default_store()
    try:
        yield
    except UserError as error:
        if place.is_main:
            store.set(TOLD, "")
        else:
            error.is_told = _told(place, store, str(error))
        _leave(place, store)
        raise
    except TrainingStopped as lost:
        sentence = _sentence(place, store) if place.is_main else None
        _leave(place, store)
        if sentence:
            raise UserError(sentence) from lost
        raise


def _told(place: DistributedContext, store: Store, sentence: str) -> bool:
    """Whether rank 0 prints the sentence of this process."""
    key = error_key(place.rank)
    with suppress(RuntimeError):  # rank 0 has ended, and printed why
        store.set(key, sentence)
        dist.destroy_process_group()  # which rank 0 notices wherever it waits for this process
        if _comes(store, [TOLD], seconds=3.0):
            return True
        store.delete_key(key)
        return False
    return True


def _sentence(place: DistributedContext, store: Store) -> str | None:
    """The error that another process has left; None without one."""
    if (rank := failed(store, place.world_size)) is None:
        return None
    store.set(TOLD, "")
    return f"Process {rank}: {store.get(error_key(rank)).decode()}"


def _leave(place: DistributedContext, store: Store) -> None:
    """Leave the group. Rank 0 may have the store, so it goes last, unless the others are slow."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if place.is_main:
        with suppress(RuntimeError):
            _comes(store, [f"{_LEFT} {rank}" for rank in range(1, place.world_size)], seconds=3.0)
        return

    def note() -> None:
        with suppress(RuntimeError):
            store.set(f"{_LEFT} {place.rank}", "")

    within(1.0, note)


def _comes(store: Store, keys: list[str], *, seconds: float) -> bool:
    """Whether all keys are in the store within this time."""
    end = time.monotonic() + seconds
    while not store.check(keys):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
