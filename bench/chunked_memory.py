"""Peak memory and time of cross-entropy over a large vocabulary: in chunks (`models/token_network.py`) and plain.

Forward and backward of an output layer of GPT-2's shape, each in a process of its own; the peak is what that added to
the process that already held weights and inputs (on CUDA, to the allocator). Prints both and their ratio.

    python bench/chunked_memory.py [--vocabulary 50257] [--tokens 4096] [--width 768] [--threads 2] [--device cpu]
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from seedfast.models.token_network import score


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Bytes that a forward and backward pass adds at its peak, and its seconds."""
    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    head = nn.Linear(asked.width, asked.vocabulary, bias=False, device=asked.device)
    x = torch.randn(asked.tokens, asked.width, device=asked.device, requires_grad=True)
    targets = torch.randint(asked.vocabulary, (asked.tokens,), device=asked.device)
    (head(x[:8]).sum() * 0).backward()  # libraries load, gradients exist
    on_cuda = asked.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    if asked.one == "plain":
        nats = F.cross_entropy(head(x).float(), targets, reduction="none")
    else:
        nats = score(head, x, targets).nats_N
    nats.sum().backward()
    value = float(nats.detach().double().sum())
    seconds = time.perf_counter() - began
    after = torch.cuda.max_memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": after - before, "seconds": seconds, "nats": value}


def main() -> None:
    """Print the table, or be one of its processes."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--vocabulary", type=int, default=50257)
    arguments.add_argument("--tokens", type=int, default=4096)
    arguments.add_argument("--width", type=int, default=768)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.one:
        print(json.dumps(measure(asked)))
        return
    found = {}
    for how in ("plain", "chunked"):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", how]
        found[how] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{how:<8} peak {found[how]['bytes'] / 2**20:8.0f} MiB   {found[how]['seconds']:6.2f} s", flush=True)
    plain, chunked = found["plain"], found["chunked"]
    print(f"memory chunked ÷ plain {chunked['bytes'] / plain['bytes']:.3f}")
    print(f"nats apart by {abs(chunked['nats'] / plain['nats'] - 1):.1e} (relative)")


if __name__ == "__main__":
    main()
