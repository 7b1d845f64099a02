"""The environment in which torchrun, SLURM and Kubernetes start a process: its rank, its job, and when it has to end.

torchrun's variables come first. `srun` alone starts a process group too: its variables are translated once, where the
command line begins, so everything after it knows one set of names.
"""

import os
import re
from collections.abc import Mapping, MutableMapping

_FIRST_HOST = re.compile(r"(?P<before>[^,\[]*)(?:\[(?P<number>\d+)[^\]]*\])?(?P<after>[^,]*)")
_PORTS = range(12000, 29000)
_MARGIN = 120.0  # seconds before the end of a SLURM job in which a step ends and a checkpoint is written


def adopt(environment: MutableMapping[str, str] = os.environ) -> None:
    """Translate the variables of a process that `srun` has started without torchrun."""
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS") or 1) == 1:
        return
    job = int(environment.get("SLURM_JOB_ID") or 0)
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = environment["SLURM_STEP_NUM_TASKS"]
    environment.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
    environment.setdefault("MASTER_PORT", str(_PORTS[job % len(_PORTS)]))


def quiet_engine(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the warnings of PyTorch's C++ code off the terminal of a group, before PyTorch is loaded.

    Each has a page of stack frames, and they come where another process has ended, which is told by one sentence.
    """
    if environment.get("WORLD_SIZE", "1") != "1":
        environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def first_host(hosts: str) -> str:
    """The first host of a SLURM list such as node[01-04,07],other1."""
    found = _FIRST_HOST.match(hosts)
    return "".join(part or "" for part in found.groups()) if found else hosts


def rank() -> int:
    """The number of this process in its group; 0 without one, and for what is no number."""
    found = os.environ.get("RANK", "")
    return int(found) if found.isdecimal() else 0


def is_first() -> bool:
    """Whether this is rank 0, which prints."""
    return not rank()


def job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job of this process in a cluster: SLURM's number, or the name that torchrun was given (--rdzv-id)."""
    named = environment.get("TORCHELASTIC_RUN_ID")
    return environment.get("SLURM_JOB_ID") or (named if named != "none" else None)


def stop_at(environment: Mapping[str, str] = os.environ) -> float | None:
    """The time at which training saves and ends, in Unix seconds; None without a limit.

    SEEDFAST_STOP_AT, or two minutes before the end of a SLURM job.
    """
    for name, margin in (("SEEDFAST_STOP_AT", 0.0), ("SLURM_JOB_END_TIME", _MARGIN)):
        try:
            return float(environment[name]) - margin
        except (KeyError, ValueError):
            continue
    return None
