"""Vectorised corruption against loops over samples, as such systems usually write them.

All corrupt the same batches: masked and replaced positions, targets and kinds. The plain loop draws each sample's rates
and a permutation and writes position by position; the other loop handles one sample at a time with tensor operations.
Neither has keyed numbers. Prints samples per second of processor time, and how many times faster the vectorised form
is, for several shapes; the batch is what it lives on.

    python bench/corruption.py [--threads 1] [--rounds 5]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Corruption, Symbols, corrupt
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.keys import Draws

WORDS = 65
OPTIONS = Corruption(replaced=Ramp(end=1.0))


def loop(tokens_BL: Tensor, symbols: Symbols, generator: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """One sample after the other, one position after the other."""
    inputs_BL, targets_BL = tokens_BL.clone(), tokens_BL.clone()
    kind_BL = torch.full_like(tokens_BL, IDENTITY)
    length = tokens_BL.shape[1]
    for row in range(len(tokens_BL)):
        corrupted = generator.random() * (1 - OPTIONS.guaranteed_correct)
        wrong = corrupted * generator.random() * OPTIONS.replaced.end
        masked = int(length * (corrupted - wrong))
        replaced = int(length * wrong)
        order = generator.sample(range(length), length)
        for position in order[:masked]:
            inputs_BL[row, position] = symbols.mask
            kind_BL[row, position] = UNMASK
        for position in order[masked : masked + replaced]:
            token = int(tokens_BL[row, position].item())
            inputs_BL[row, position] = (token + generator.randrange(1, WORDS)) % WORDS
            targets_BL[row, position] = symbols.wrong
            kind_BL[row, position] = REMASK
    return inputs_BL, targets_BL, kind_BL


def by_sample(tokens_BL: Tensor, symbols: Symbols, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One sample after the other, each with tensor operations."""
    inputs_BL, targets_BL = tokens_BL.clone(), tokens_BL.clone()
    kind_BL = torch.full_like(tokens_BL, IDENTITY)
    length = tokens_BL.shape[1]
    for row in range(len(tokens_BL)):
        corrupted, part = torch.rand(2, generator=generator).tolist()
        corrupted *= 1 - OPTIONS.guaranteed_correct
        masked, replaced = int(length * corrupted * (1 - part)), int(length * corrupted * part)
        order = torch.randperm(length, generator=generator)
        gaps, wrong = order[:masked], order[masked : masked + replaced]
        inputs_BL[row, gaps] = symbols.mask
        kind_BL[row, gaps] = UNMASK
        shift = torch.randint(1, WORDS, (replaced,), generator=generator)
        inputs_BL[row, wrong] = (tokens_BL[row, wrong] + shift) % WORDS
        targets_BL[row, wrong] = symbols.wrong
        kind_BL[row, wrong] = REMASK
    return inputs_BL, targets_BL, kind_BL


def rate(function: Callable[[], object], samples: int, least: float = 0.2) -> float:
    """Samples per second of processor time, over at least so many: a busy machine does not compute more."""
    count, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < least:
        function()
        count += 1
    return count * samples / elapsed


def main() -> None:
    """Measure and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    symbols, plain, torchs = Symbols(WORDS, "mask-wrong"), random.Random(1), torch.Generator()
    print("samples per second, and the vectorised form's over each loop's (all rounds)")
    print(f"{'batch':>6} {'length':>7} {'plain loop':>11} {'by sample':>10} {'vectorised':>11}   ratios")
    for batch, length in ((12, 64), (64, 64), (512, 64), (512, 256)):
        draws = Draws(seed=1, scope="bench", positions_B=torch.arange(batch), group=batch)
        tokens_BL = draws.randint("text", length, high=WORDS)
        scored_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
        forms = (
            lambda: loop(tokens_BL, symbols, plain),  # noqa: B023
            lambda: by_sample(tokens_BL, symbols, torchs),  # noqa: B023
            lambda: corrupt(tokens_BL, scored_BL, OPTIONS, symbols, draws),  # noqa: B023
        )
        rates = [[rate(form, batch) for form in forms] for _ in range(asked.rounds)]
        middle = [statistics.median(column) for column in zip(*rates, strict=True)]
        row = f"{batch:>6} {length:>7} {middle[0]:>11,.0f} {middle[1]:>10,.0f} {middle[2]:>11,.0f}   "
        ratios = [sorted(each[2] / each[form] for each in rates) for form in (0, 1)]
        row += "; ".join(f"{statistics.median(r):.1f} ({' '.join(f'{x:.0f}' for x in r)})" for r in ratios)
        print(row, flush=True)


if __name__ == "__main__":
    main()
