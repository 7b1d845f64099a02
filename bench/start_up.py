"""Start-up: seconds from the command until the first step of a training is in its journal, beside `import torch` alone.

The data are in the cache, and the bytecode of all modules is stored: a run that is not measured comes first. With
`--beside`, another version of seedfast does the same in turns, because other load on the machine slows both.

    python bench/start_up.py FILE [--rounds 5] [--threads 2] [--beside ../other/src]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import seedfast
from common import environment, parse, parser, seconds_until

_FLAGS = "text-autoregressive --data.tokenizer characters --steps 1 --schedule.warmup 0 --sample-every 0"


def seconds_to_first_step(file: Path, cache: Path, source: Path, threads: int) -> float:
    """Seconds from a command that trains on a text to the first step in its journal. source: with its modules."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "seedfast", "train", *_FLAGS.split(), "--data", str(file), "--out", str(out)]
        variables = environment(threads) | {"PYTHONPATH": str(source), "SEEDFAST_CACHE": str(cache)}
        return seconds_until(b'"loss"', command, out, variables, then_kill=True)


def seconds_to_import(threads: int) -> float:
    """Seconds of a process that imports PyTorch and ends."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], env=environment(threads), check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print one row for each of what is started."""
    made = parser(__doc__, threads=2)
    made.add_argument("file", type=Path)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--beside", type=Path, help="the `src` folder of another version")
    options = parse(made)
    sources = {"seedfast": Path(seedfast.__file__).parents[1]}
    if options.beside:
        sources["beside"] = options.beside.absolute()
    with tempfile.TemporaryDirectory() as folder:
        starts = {"import torch": partial(seconds_to_import, options.threads)} | {
            name: partial(seconds_to_first_step, options.file, Path(folder) / name, source, options.threads)
            for name, source in sources.items()
        }
        for name in sources:
            starts[name]()
        found: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(options.rounds):
            for name, start in starts.items():
                found[name].append(start())
    for name, each in found.items():
        spread = f"{min(each):.2f} to {max(each):.2f}"
        print(f"{name:14} {statistics.median(each):5.2f} s, median of {options.rounds} ({spread})")


if __name__ == "__main__":
    main()
