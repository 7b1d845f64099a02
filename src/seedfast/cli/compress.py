"""`seedfast compress`."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seedfast.cli.arguments import check_output, parse
from seedfast.cli.chosen import ChosenFlags
from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Compress a file without loss, by the probabilities that a model of text gives to it.

    The size is the number that `seedfast score` prints for the same text, to within 64 bits and the header
    (docs/compression.md). Any file will do: bytes that are no text for the model's tokenizer are stored as they are.
    Decompressing needs the same weights and the same arithmetic. Interrupted by Ctrl-C, the same command continues.
    """

    file: tyro.conf.Positional[Path]
    """The file to compress."""
    run: Annotated[Path, tyro.conf.arg(name="with", metavar="RUN")]
    """The model: a run folder, a checkpoint in it, or a model's own folder (transformers, peft or seedfast export)."""
    out: Path
    """The compressed file."""
    rows: int | None = None
    """Windows that are computed together (default: by the context, and few for a short file)."""
    steps: int | None = None
    """Unmasking steps of a masked model's window, or of a block (default: one for each token): fewer are faster, and
    the file is larger."""
    json: bool = False
    """Print one JSON object."""
    chosen: ChosenFlags


def compress(words: list[str]) -> int:
    """Compress a file; see `Compress` for the flags."""
    asked: Compress = parse(Compress, words, prog="seedfast compress")
    check_files(asked.file, asked.out)
    from seedfast.console import put, say
    from seedfast.evaluate.codec.codec import compress as encode
    from seedfast.files import commit

    model = asked.chosen.load(asked.run)
    content, began = asked.file.read_bytes(), time.monotonic()
    try:
        found = encode(model, content, rows=asked.rows, steps=asked.steps, result=asked.out)
    except KeyboardInterrupt:
        say(f"{asked.out} is not written; what is done of it is kept, and the same command continues.")
        raise
    commit(asked.out, found.content)
    if asked.json:
        print(json.dumps({"weights": model.weights, "step": model.step} | found.record(), ensure_ascii=False))
    else:
        put("\n".join([model.origin, f"decoding: {found.decoding}", *found.table()]))
    say(speed(len(content), time.monotonic() - began))
    return 0


def check_files(file: Path, out: Path) -> None:
    """Raise UserError for a file that cannot be read, or a result that is a folder or the file itself."""
    if not file.is_file():
        raise UserError(f"{file} is no file: name the one that is to be read.")
    check_output("out", out)
    if out.exists() and out.samefile(file):
        raise UserError(f"--out {out} is the file itself, which would be replaced: name another file.")


def speed(size: int, seconds: float) -> str:
    """How fast a file was read or written, for people."""
    return f"{seconds:.1f} s, {size / 1000 / max(seconds, 1e-3):,.1f} kB/s"
