"""Peak memory and time of cross-entropy over a large vocabulary: in chunks (`models/token_network.py`) and plain.

Forward and backward pass of an output layer with GPT-2's sizes, each in its own process. The peak is the memory in
addition to weights and inputs (on CUDA, of the allocator). Prints both and their ratio.

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

from common import parse, parser
from seedfast.models.token_network import score


def measure(options: argparse.Namespace) -> dict[str, float]:
    """The peak of the additional memory of a forward and backward pass in bytes, and its seconds."""
    torch.manual_seed(0)
    head = nn.Linear(options.width, options.vocabulary, bias=False, device=options.device)
    x = torch.randn(options.tokens, options.width, device=options.device, requires_grad=True)
    targets = torch.randint(options.vocabulary, (options.tokens,), device=options.device)
    (head(x[:8]).sum() * 0).backward()  # loads libraries and allocates gradients
    on_cuda = options.device == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    if options.one == "plain":
        nats = F.cross_entropy(head(x).float(), targets, reduction="none")
    else:
        nats = score(head, x, targets).nats_N
    nats.sum().backward()
    value = float(nats.detach().double().sum())
    seconds = time.perf_counter() - began
    after = torch.cuda.max_memory_allocated() if on_cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": after - before, "seconds": seconds, "nats": value}


def main() -> None:
    """Print the table; with `--one`, run one of its processes."""
    made = parser(__doc__, threads=2)
    made.add_argument("--vocabulary", type=int, default=50257)
    made.add_argument("--tokens", type=int, default=4096)
    made.add_argument("--width", type=int, default=768)
    made.add_argument("--device", default="cpu")
    made.add_argument("--one", help=argparse.SUPPRESS)
    options = parse(made)
    if options.one:
        print(json.dumps(measure(options)))
        return
    found = {}
    for how in ("plain", "chunked"):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", how]
        found[how] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{how:<8} peak {found[how]['bytes'] / 2**20:8.0f} MiB   {found[how]['seconds']:6.2f} s", flush=True)
    plain, chunked = found["plain"], found["chunked"]
    print(f"memory chunked ÷ plain {chunked['bytes'] / plain['bytes']:.3f}")
    print(f"the losses differ by {abs(chunked['nats'] / plain['nats'] - 1):.1e} (relative)")


if __name__ == "__main__":
    main()
