"""Data in many files: time and memory of preparing it by shard and as a whole, after a kill, and the order over it.

    python bench/shards.py [--shards 120] [--megabytes 50] [--form jsonl|parquet|txt]

The shards are synthetic text in rows, tokenised as bytes (which measures the preparation and no tokenizer) or by a
learned bpe. Each line of the first table is a new process with an empty cache; "again" finds all of it prepared, and
"after a kill" what a process has left that was killed when half of the shards were done. The memory is the peak of that
process, with the modules that it has, and that of the largest of its workers.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from common import parse, parser
from seedfast.data.mixture_order import MixtureOrder, Shares, Source
from seedfast.data.sample_order import Order, SampleOrder
from seedfast.data.text.config import TextData

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


def prepare(folder: Path, cache: Path, tokenizer: str, way: str, answer: Connection) -> None:
    """Prepare the data and draw twenty batches: the work of one process."""
    os.environ["SEEDFAST_CACHE"] = str(cache)
    began = time.perf_counter()
    corpus = TextData(path=str(folder), tokenizer=tokenizer, context=256, by_shard=way == "shards").load()
    order = corpus.order(seed=1, batch_size=256)
    loaded = time.perf_counter()
    for step in range(20):
        corpus.train.batch(order.ids(step * 32, step * 32 + 32))
    batches = time.perf_counter() - loaded
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    answer.send([loaded - began, *peaks, len(corpus.train), batches / 20])


def start(folder: Path, cache: Path, tokenizer: str, way: str) -> tuple[BaseProcess, Connection]:
    """A process that prepares the data, forked so that its peak begins anew, and its answer."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=prepare, args=(folder, cache, tokenizer, way, theirs))
    process.start()
    theirs.close()
    return process, ours


def measured(process: BaseProcess, answer: Connection) -> str:
    """Wait for it; its line of the table."""
    try:
        seconds, own, workers, windows, batch = answer.recv()
    except EOFError:
        raise SystemExit("a preparation has ended without a result") from None
    process.join()
    return f"{seconds:8.2f} s  {own:7.0f} MiB  {workers:7.0f} MiB  {windows:11,}  {batch * 1e3:7.2f} ms"


def killed_half_way(folder: Path, cache: Path, tokenizer: str, shards: int) -> int:
    """Start a preparation and kill it when half of the shards are done; returns how many are."""
    process, _ = start(folder, cache, tokenizer, "shards")
    while process.is_alive() and len(list(cache.glob("shards/*/*/manifest.json"))) < shards // 2:
        time.sleep(0.01)
    process.kill()
    process.join()
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
            line = measured(*start(folder, Path(place) / way, options.tokenizer, way))
            print(f"{'as a whole' if way == 'whole' else 'by shard':<16} {line}", flush=True)
        line = measured(*start(folder, Path(place) / "shards", options.tokenizer, "shards"))
        print(f"{'by shard, again':<16} {line}")
        done = killed_half_way(folder, Path(place) / "killed", options.tokenizer, options.shards)
        line = measured(*start(folder, Path(place) / "killed", options.tokenizer, "shards"))
        print(f"{'after a kill':<16} {line}  ({done} of {options.shards} shards were done)")
    orders(options.ids)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
