"""The memory of this process and its device: what may be used, what was used at most, and errors from a lack of it."""

import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
_MESSAGES = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""What the errors of allocators say: of PyTorch on the CPU, of C++, of CUDA, of its libraries."""


class OutOfMemory(Exception):
    """The gradient of a step needs more memory than there is; nothing has moved."""


@contextmanager
def noticed() -> Iterator[None]:
    """Raise OutOfMemory in the place of the allocators' errors."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(" ".join(str(error).split())[:200]) from None  # the frames would keep the tensors alive


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation, of the host or the device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)


def release() -> None:
    """Give back what is no longer needed, such as that of a failed attempt."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc: its heaps keep what is freed
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def limit(device: torch.device) -> int | None:
    """The bytes that this process may use in all: what it uses and what is free. None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    status = _status()
    free_bytes = [each for each in (_free_of_machine(), _free_of_group(), _free_of_limit(status)) if each is not None]
    return status["VmRSS"] + min(free_bytes) if "VmRSS" in status and free_bytes else None


def peak(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes that this process uses on the device while it works, with what it used before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size begins again from the present one
    work()
    return _status().get("VmHWM", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _status() -> dict[str, int]:
    """The sizes of this process in bytes, as Linux names them."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return {}
    return {
        name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }


def _free_of_machine() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None


def _free_of_group() -> int | None:
    """What the control group of a container or a batch job leaves; files that are only cached can be given up."""
    with suppress(OSError, ValueError):
        most, now = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return most - now + int(stat.get("inactive_file", 0))
    return None


def _free_of_limit(status: dict[str, int]) -> int | None:
    """What the limit of the address space (`ulimit -v`) leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY or "VmSize" not in status else soft - status["VmSize"]
