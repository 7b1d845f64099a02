"""Peak memory and time of cross-entropy over a large vocabulary: in chunks (`models/token_network.py`) and plain.

Forward and backward pass of an output layer with GPT-2's sizes, each in its own process. The peak is the memory in
addition to weights and inputs (on CUDA, of the allocator). Prints both and their ratio.

    python bench/chunked_memory.py [--vocabulary 50257] [--tokens 4096] [--width 768] [--threads 2] [--device cpu]
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from common import parse, parser
from seedfast.models.token_network import score


def memory(name: str) -> int:
    """Bytes of this process now ("VmRSS") or at its peak ("VmHWM"), which begins anew in a forked process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(how: str, options: argparse.Namespace) -> dict[str, float]:
    """The peak of the additional memory of a forward and backward pass in bytes, and its seconds."""
    torch.manual_seed(0)
    head = nn.Linear(options.width, options.vocabulary, bias=False, device=options.device)
    x = torch.randn(options.tokens, options.width, device=options.device, requires_grad=True)
    targets = torch.randint(options.vocabulary, (options.tokens,), device=options.device)
    (head(x[:8]).sum() * 0).backward()  # loads libraries and allocates gradients
    on_cuda = options.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_cuda else memory("VmHWM")
    began = time.perf_counter()
    if how == "plain":
        nats = F.cross_entropy(head(x).float(), targets, reduction="none")
    else:
        nats = score(head, x, targets).nats_N
    nats.sum().backward()
    value = float(nats.detach().double().sum())
    seconds = time.perf_counter() - began
    after = torch.cuda.max_memory_allocated() if on_cuda else memory("VmHWM")
    return {"bytes": after - before, "seconds": seconds, "nats": value}


def measured(how: str, options: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own, forked before this one has computed anything."""

    def work(answer: Connection) -> None:
        answer.send(measure(how, options))

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit(f"the process that measures {how} has ended without a result") from None
    process.join()
    return found


def main() -> None:
    """Print the table."""
    made = parser(__doc__, threads=2)
    made.add_argument("--vocabulary", type=int, default=50257)
    made.add_argument("--tokens", type=int, default=4096)
    made.add_argument("--width", type=int, default=768)
    made.add_argument("--device", default="cpu")
    options = parse(made)
    found = {}
    for how in ("plain", "chunked"):
        found[how] = measured(how, options)
        print(f"{how:<8} peak {found[how]['bytes'] / 2**20:8.0f} MiB   {found[how]['seconds']:6.2f} s", flush=True)
    plain, chunked = found["plain"], found["chunked"]
    print(f"memory chunked ÷ plain {chunked['bytes'] / plain['bytes']:.3f}")
    print(f"the losses differ by {abs(chunked['nats'] / plain['nats'] - 1):.1e} (relative)")


if __name__ == "__main__":
    main()
