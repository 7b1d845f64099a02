"""Text that a model has not seen, compressed by it and by xz, zstd and brotli.

    python bench/compression.py book.txt [--recipes text-autoregressive text-masked] [--steps 1500] [--size 50000]
    python bench/compression.py book.txt --runs runs/mine     runs that were trained on all but the end of the book

The last `--size` bytes of the file are compressed; each recipe is trained on those before. A general compressor stands
twice in the table: of these bytes alone, and of what they add to the compressed text before them, which is what a model
that has read that text is to be compared with. Nobody but the last column counts the model: its weights in float32.
"""

import argparse
import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import brotli
import zstandard

import seedfast
from common import parse, parser
from seedfast.evaluate.codec.codec import compress
from seedfast.evaluate.trained import Trained


class Row(NamedTuple):
    """A row of the table: sizes in bytes, speeds in bytes a second. ideal: in bits."""

    name: str
    size: int
    weights: int = 0
    ideal: float | None = None
    speed: float | None = None
    back: float | None = None

    def show(self, plain: int) -> str:
        """The row in Markdown."""
        cells = [
            self.name,
            f"{self.size:,}",
            f"{8 * self.size / plain:.3f}",
            "" if self.ideal is None else f"{self.ideal / plain:.3f}",
            f"{self.size + self.weights:,}",
            *("" if each is None else f"{each / 1000:.1f}" for each in (self.speed, self.back)),
        ]
        return f"| {' | '.join(cells)} |"


def xz(content: bytes) -> bytes:
    """The strongest preset."""
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def zstd(content: bytes) -> bytes:
    """The strongest level, with a window of all that comes before."""
    values = zstandard.ZstdCompressionParameters.from_level(22, window_log=27)
    return zstandard.ZstdCompressor(compression_params=values).compress(content)


def general(before: bytes, content: bytes) -> list[Row]:
    """The rows of general compressors."""
    rows = []
    ways: dict[str, Callable[[bytes], bytes]] = {"xz -9e": xz, "zstd -22": zstd, "brotli -q 11": brotli.compress}
    for name, way in ways.items():
        rows.append(Row(name, len(way(content))))
        rows.append(Row(f"{name}, after the text before", len(way(before + content)) - len(way(before))))
    return rows


def by(name: str, model: Trained, content: bytes, options: argparse.Namespace) -> Row:
    """The row of a model, which is checked to give back the same bytes."""
    steps = None if "autoregressive" in name else options.unmasking
    began = time.perf_counter()
    found = compress(model, content, steps=steps, rows=options.rows)
    middle = time.perf_counter()
    assert model.decompress(found.content) == content
    ended = time.perf_counter()
    weights = sum(4 * parameter.numel() for parameter in model.network.parameters())
    speeds = len(content) / (middle - began), len(content) / (ended - middle)
    return Row(name if steps is None else f"{name}, {steps} steps", len(found.content), weights, found.ideal, *speeds)


def trained(recipe: str, folder: Path, before: bytes, options: argparse.Namespace) -> Trained:
    """A recipe, trained on the text before."""
    text = folder / "before.txt"
    text.write_bytes(before)
    changes = {"data.path": str(text), "data.tokenizer": "characters", "data.context": options.context}
    run = seedfast.recipe(recipe, steps=options.steps, sample_every=0, **changes, **{"model.width": options.width})
    return seedfast.train(run, folder / recipe, progress=lambda entry: None)


def main() -> None:
    """Print the table."""
    made = parser(__doc__, threads=2)
    made.add_argument("text", type=Path)
    made.add_argument("--recipes", nargs="*", default=["text-autoregressive", "text-masked", "text-block"])
    made.add_argument("--runs", nargs="*", type=Path, default=[], help="runs instead of recipes")
    made.add_argument("--steps", type=int, default=1500, help="of training")
    made.add_argument("--width", type=int, default=128)
    made.add_argument("--context", type=int, default=128)
    made.add_argument("--size", type=int, default=50_000, help="bytes that are compressed")
    made.add_argument("--unmasking", type=int, help="steps of a window, or a block, of masked models")
    made.add_argument("--rows", type=int)
    options = parse(made)
    everything = options.text.read_bytes()
    before, content = everything[: -options.size], everything[-options.size :]
    print(f"{len(content):,} bytes, after {len(before):,} bytes\n")
    print(
        "| by | bytes | bits per byte | ideal | bytes with the model | kB/s | kB/s back |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    for row in general(before, content):
        print(row.show(len(content)), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for run in options.runs:
            print(by(run.name, seedfast.load(run), content, options).show(len(content)), flush=True)
        for recipe in [] if options.runs else options.recipes:
            model = trained(recipe, Path(temporary), before, options)
            print(by(recipe, model, content, options).show(len(content)), flush=True)


if __name__ == "__main__":
    main()
