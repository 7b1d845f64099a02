"""Vectorised corruption against loops over samples, the usual implementation.

All corrupt the same batches: masked and replaced positions, targets and kinds. The plain loop draws the rates and a
permutation of each sample and writes one position at a time; the other loop handles one sample at a time with tensor
operations. Neither has keyed randomness. Prints samples per second of processor time and the ratios for several shapes;
the advantage of the vectorised form grows with the batch.

    python bench/corruption.py [--threads 1] [--rounds 5] [--seconds 0.2] [--shapes 12x64 512x256]
"""

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from common import parse, parser
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Corruption, Symbols, corrupt
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.keys import Draws

WORDS = 65
OPTIONS = Corruption(replaced=Ramp(end=1.0))


def loop(tokens_BL: Tensor, symbols: Symbols, generator: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """One position of one sample at a time."""
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
    """One sample at a time, with tensor operations."""
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


def rate(function: Callable[[], object], samples: int, seconds: float) -> float:
    """Samples per second of processor time, measured over at least `seconds`; other processes do not count."""
    count, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        function()
        count += 1
    return count * samples / elapsed


def main() -> None:
    """Measure and print a table."""
    made = parser(__doc__, threads=1)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=0.2, help="shortest time of each measurement (default 0.2)")
    shapes = ["12x64", "64x64", "512x64", "512x256"]
    made.add_argument("--shapes", nargs="+", default=shapes, help="batch x length (default: four)")
    options = parse(made)
    symbols, of_python, of_torch = Symbols(WORDS, "mask-wrong"), random.Random(1), torch.Generator()
    print("samples per second; ratios: vectorised / plain loop; vectorised / by sample (of each round)")
    print(f"{'batch':>6} {'length':>7} {'plain loop':>11} {'by sample':>10} {'vectorised':>11}   ratios")
    for batch, length in (map(int, shape.split("x")) for shape in options.shapes):
        draws = Draws(seed=1, scope="bench", positions_B=torch.arange(batch), group=batch)
        tokens_BL = draws.randint("text", length, high=WORDS)
        scored_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
        forms = (
            lambda: loop(tokens_BL, symbols, of_python),  # noqa: B023
            lambda: by_sample(tokens_BL, symbols, of_torch),  # noqa: B023
            lambda: corrupt(tokens_BL, scored_BL, OPTIONS, symbols, draws),  # noqa: B023
        )
        rates = [[rate(form, batch, options.seconds) for form in forms] for _ in range(options.rounds)]
        middle = [statistics.median(column) for column in zip(*rates, strict=True)]
        row = f"{batch:>6} {length:>7} {middle[0]:>11,.0f} {middle[1]:>10,.0f} {middle[2]:>11,.0f}   "
        ratios = [sorted(each[2] / each[form] for each in rates) for form in (0, 1)]
        row += "; ".join(f"{statistics.median(r):.1f} ({' '.join(f'{x:.0f}' for x in r)})" for r in ratios)
        print(row, flush=True)


if __name__ == "__main__":
    main()
