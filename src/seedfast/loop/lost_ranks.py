"""Which ranks of a group are missing, once a collective has failed: those that do not report to the common store."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from threading import Thread

import torch.distributed as dist
from torch._C._distributed_c10d import Store

_REPORT = 3.0
"""Seconds in which the others report: a failed collective ends those of all ranks that wait in it."""
_WAITED, _LOST = "waited", "lost"
_OF_GLOO = "gloo", "Application timeout caused pair closure"
"""What its errors contain: their source file, or of operations beside one that had no answer in time, this sentence."""
_TIMED_OUT = "timed out", "timeout"
TOLD = "rank 0 prints the error"
"""Key of the store: set once rank 0 ends with a sentence, so that the others end without one."""


def is_of_group(error: RuntimeError) -> bool:
    """Whether an error is that of a collective: gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in _OF_GLOO)


def has_waited(error: RuntimeError) -> bool:
    """Whether a collective had no answer within its time limit."""
    return any(words in str(error).lower() for words in _TIMED_OUT)


def reason(error: RuntimeError, rank: int, world_size: int, minutes: float) -> tuple[str, int]:
    """Why this rank stops after the error of a collective, and the rank that prints it.

    Another process has ended, or some that are named did not arrive within the time limit of a collective, in minutes.
    """
    missing, waited = _reports(rank, world_size, timed_out=has_waited(error))
    first = min((each for each in range(world_size) if each not in missing), default=rank)
    if not waited:
        return f"Another process of this training has ended, so process {rank} of {world_size} stops too", first
    named = f"Process {missing[0]}" if len(missing) == 1 else f"The processes {_listed(missing)}"
    limit = f"{minutes:g} minutes (--rank-timeout)"
    return f"{named} of {world_size} did not arrive within {limit}, so process {rank} stops too", first


def _reports(rank: int, world_size: int, *, timed_out: bool) -> tuple[list[int], bool]:
    """The ranks that are missing, and whether one waited to the time limit.

    A rank that others waited for to no avail finds that all have reported: it is missing itself.
    """
    reports: dict[int, str] = {}
    within(2 * _REPORT, partial(_exchange, rank, world_size, _WAITED if timed_out else _LOST, reports))
    found = dict(reports)
    if not found:
        return [0], timed_out
    return [each for each in range(world_size) if each not in found] or [rank], _WAITED in found.values()


def _exchange(rank: int, world_size: int, report: str, reports: dict[int, str]) -> None:
    """Report to the store, and collect the reports of all ranks until the time is over, or one had an error.

    Rank 0 counts as one that has reported if it prints an error of its own. Its store ends soon then.
    """
    keys = {each: f"seedfast/ended/{each}" for each in range(world_size)}
    end = time.monotonic() + _REPORT
    with suppress(RuntimeError):  # the store has ended with its process
        store = dist.distributed_c10d._get_default_store()
        store.set(keys[rank], report)
        while len(reports) < world_size and time.monotonic() < end and failed(store, world_size) is None:
            time.sleep(0.05)
            arrived = {each: key for each, key in keys.items() if each not in reports and store.check([key])}
            reports.update({each: store.get(key).decode() for each, key in arrived.items()})
            if store.check([TOLD]):
                reports.setdefault(0, _LOST)
                return


def within(seconds: float, function: Callable[[], object]) -> bool:
    """Whether the function ends within this time; else it is left alone.

    The store may be in the process of rank 0. Where that hangs, no answer of it has a time limit.
    """
    thread = Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def error_key(rank: int) -> str:
    """The key of the store for the sentence of a rank that had an error of its own."""
    return f"error of rank {rank}"


def failed(store: Store, world_size: int) -> int | None:
    """The first rank besides 0 that had an error of its own; None without one."""
    return next((rank for rank in range(1, world_size) if store.check([error_key(rank)])), None)


def _listed(ranks: Iterable[int]) -> str:
    *some, last = map(str, ranks)
    return f"{', '.join(some)} and {last}" if some else last
