"""Training images per second of the recipe's U-Net and of that of diffusers at equal parameter count, in one process.

Both train on the same images with the same loss and the same optimizer (fused AdamW). Rounds alternate, so that other
load on the machine affects both; the result is the median ratio of the rounds.

    python bench/image_speed.py [--size 32] [--batch 32] [--rounds 5] [--threads 2]
"""

import argparse
import os
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"

from seedfast import recipes
from seedfast.models.diffusers_unet import DiffusersUNet


def parameters(network: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def matched(count: int, size: int, channels: int = 1) -> nn.Module:
    """A U-Net of diffusers with three levels, of the width with the nearest parameter count."""

    def build(width: int) -> nn.Module:
        config = DiffusersUNet(widths=(width, 2 * width, 2 * width), attention=(False, False, True))
        return config.build(size=size, channels=channels, classes=1)

    def counted(width: int) -> int:
        with torch.device("meta"):  # without memory or initialisation
            return parameters(build(width))

    widths = range(8, 257, 8)
    first = bisect_left(widths, count, key=counted)  # the first with as many parameters
    return build(min(widths[max(0, first - 1) : first + 1], key=lambda width: abs(counted(width) - count)))


def trainer(network: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """A training step of a network, as a function of images and times."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step(x: Tensor, time_B: Tensor) -> None:
        optimizer.zero_grad()
        (network(x, time_B) - x).square().mean().backward()
        optimizer.step()

    return step


def rate(step: Callable[[Tensor, Tensor], None], x: Tensor, time_B: Tensor, steps: int) -> float:
    """Images per second over some steps."""
    began = time.perf_counter()
    for _ in range(steps):
        step(x, time_B)
    return steps * len(x) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, time_B = torch.randn(options.batch, 1, options.size, options.size), torch.rand(options.batch)
    recipes_own = recipes.make("image-diffusion").model
    for name, config in (("recipe's", recipes_own), ("recipe's at full resolution", replace(recipes_own, patch=1))):
        ours = config.build(size=options.size, channels=1, classes=1)
        theirs = matched(parameters(ours), options.size)
        pair = trainer(ours), trainer(theirs)
        for step in pair:
            rate(step, x, time_B, 1)
        rounds = [[rate(step, x, time_B, options.steps) for step in pair] for _ in range(options.rounds)]
        ratio = statistics.median(a / b for a, b in rounds)
        print(
            f"{name}: ours {statistics.median(a for a, _ in rounds):.0f} images/s with {parameters(ours):,} "
            f"parameters, diffusers {statistics.median(b for _, b in rounds):.0f} with {parameters(theirs):,}: "
            f"{ratio:.2f} times"
        )


if __name__ == "__main__":
    main()
