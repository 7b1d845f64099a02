"""Data in many files: time and memory of preparing it by shard and as a whole, after a kill, and the order over it.

    python bench/shards.py [--shards 120] [--megabytes 50] [--form jsonl|parquet|txt]

The shards are synthetic text in rows, tokenised as bytes (which measures the preparation and no tokenizer) or by a
learned bpe. Each line of the first table is a new process with an empty cache; "again" finds all of it prepared, and
"after a kill" what a process has left that was killed when half of the shards were done. The memory is the peak of that
process, with the modules that it imports, and that of the largest of its workers.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from common import parse, parser
from seedfast.data.mixture_order import MixtureOrder, Shares, Source
from seedfast.data.sample_order import Order, SampleOrder

_PREPARE = """
import json, resource, sys, time
from seedfast.data.text.config import TextData
began = time.perf_counter()
corpus = TextData(path=sys.argv[1], tokenizer=sys.argv[2], context=256, by_shard=sys.argv[3] == "shards").load()
order = corpus.order(seed=1, batch_size=256)
loaded = time.perf_counter()
for step in range(20):
    corpus.train.batch(order.ids(step * 32, step * 32 + 32))
batches = time.perf_counter() - loaded
peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps([loaded - began, *peaks, len(corpus.train), batches / 20]))
"""
_WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "he",
    "have",
    "it",
    "that",
    "for",
    "they",
    "with",
    "as",
    "not",
    "on",
    "she",
    "at",
    "by",
    "this",
    "we",
    "you",
    "do",
    "but",
    "from",
    "or",
    "which",
]


def write(folder: Path, shards: int, megabytes: float, form: str) -> None:
    """Write the shards: rows of some hundred words, of which no two are equal."""
    bytes_each = int(megabytes * 1e6 / shards)
    for shard in range(shards):
        texts, size, number = [], 0, 0
        while size < bytes_each:
            key = shard * 1_000_003 + number * 7919
            words = [_WORDS[(key + k * (3 + key % 11)) % len(_WORDS)] for k in range(150)]
            texts.append(f"{' '.join(words)} {key}.")
            size, number = size + len(texts[-1]) + 12, number + 1
        path = folder / f"part-{shard:05}.{form}"
        if form == "parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": texts}), path)
        elif form == "txt":
            path.write_text("\n".join(texts))
        else:
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def start(folder: Path, cache: Path, tokenizer: str, way: str) -> "subprocess.Popen[str]":
    """A process that prepares the data."""
    environment = os.environ | {"SEEDFAST_CACHE": str(cache)}
    words = [sys.executable, "-c", _PREPARE, str(folder), tokenizer, way]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def measured(process: "subprocess.Popen[str]") -> str:
    """Wait for it; its line of the table."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds, own, workers, windows, batch = json.loads(out)
    return f"{seconds:8.2f} s  {own:7.0f} MiB  {workers:7.0f} MiB  {windows:11,}  {batch * 1e3:7.2f} ms"


def killed_half_way(folder: Path, cache: Path, tokenizer: str, shards: int) -> int:
    """Start a preparation and kill it when half of the shards are done; returns how many are."""
    process = start(folder, cache, tokenizer, "shards")
    while process.poll() is None and len(list(cache.glob("shards/*/*/manifest.json"))) < shards // 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its workers end with the shard that they were at
    return len(list(cache.glob("shards/*/*/manifest.json")))


def throughput(order: SampleOrder, start_: int, count: int) -> float:
    """Example ids in a second, asked for by steps of 256."""
    began = time.perf_counter()
    for position in range(start_, start_ + count, 256):
        order.ids(position, position + 256)
    return count / (time.perf_counter() - began)


def orders(count: int) -> None:
    """Print the throughput of the order over 10^12 examples."""
    large = 10**12
    shares = Shares.of([{0: 3.0}, {0: 1.0, 10**6: 4.0}, {0: 1.0}])
    sources = [Source("a", large), Source("b", large // 7), Source("c", 1000)]
    for name, order in {
        "10^12 examples": Order(size=large, seed=1),
        "a mixture of three sources with a schedule": MixtureOrder(sources, shares, seed=1, batch_size=256),
    }.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates = [throughput(order, position, count) for position in (0, large, 10**14)]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        shown = ", ".join(f"{rate / 1e3:,.0f}" for rate in rates)
        print(f"order over {name}: {shown} thousand ids/s at positions 0, 10^12, 10^14; {grown:.0f} MiB more memory")


def main() -> None:
    """Measure and print."""
    made = parser(__doc__, threads=1)
    made.add_argument("--shards", type=int, default=120)
    made.add_argument("--megabytes", type=float, default=50.0, help="of all shards together")
    made.add_argument("--form", choices=("jsonl", "parquet", "txt"), default="jsonl")
    made.add_argument("--tokenizer", choices=("bytes", "bpe"), default="bytes")
    made.add_argument("--only-shards", action="store_true", help="do not prepare the data as a whole")
    made.add_argument("--ids", type=int, default=1 << 18, help="example ids that are timed at each position")
    options: argparse.Namespace = parse(made)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        folder.mkdir()
        write(folder, options.shards, options.megabytes, options.form)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{options.shards} shards of {options.form}, {size:.0f} MB, tokenizer {options.tokenizer}")
        print(f"{'':<16}     time      memory      workers      windows     a batch of 32")
        for way in ("whole", "shards"):
            if way == "whole" and options.only_shards:
                continue
            process = start(folder, Path(place) / way, options.tokenizer, way)
            print(f"{'as a whole' if way == 'whole' else 'by shard':<16} {measured(process)}", flush=True)
        print(f"{'by shard, again':<16} {measured(start(folder, Path(place) / 'shards', options.tokenizer, 'shards'))}")
        done = killed_half_way(folder, Path(place) / "killed", options.tokenizer, options.shards)
        line = measured(start(folder, Path(place) / "killed", options.tokenizer, "shards"))
        print(f"{'after a kill':<16} {line}  ({done} of {options.shards} shards were done)")
    orders(options.ids)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
