"""`seedfast decompress`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from seedfast.cli.arguments import Trust, parse
from seedfast.cli.compress import check_files, speed
from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Decompress:
    """Write the file again that `seedfast compress` has compressed: the same bytes, or none.

    Checkpoint, weights, device and threads are those that the compressed file states. A file that is damaged, other
    weights and another arithmetic are refused in a sentence. Interrupted by Ctrl-C, the same command continues.
    """

    file: tyro.conf.Positional[Path]
    """The compressed file."""
    run: Annotated[Path, tyro.conf.arg(name="with", metavar="RUN")]
    """The run that it was compressed with, or the model's own folder."""
    out: Path
    """The file to write."""
    trust: Trust = False


def decompress(words: list[str]) -> int:
    """Decompress a file; see `Decompress` for the flags."""
    asked: Decompress = parse(Decompress, words, prog="seedfast decompress")
    check_files(asked.file, asked.out)
    import seedfast
    from seedfast.console import put, say
    from seedfast.evaluate.bare import is_bare
    from seedfast.evaluate.codec import container
    from seedfast.evaluate.codec.codec import restore
    from seedfast.files import commit

    file = container.read(asked.file.read_bytes(), str(asked.file))
    header = file.header
    which: dict[str, Any] = {"device": "cpu" if header.device == "cpu" else "cuda", "trust": asked.trust}
    if not is_bare(asked.run):
        if header.weights not in ("ema", "raw", "base"):
            raise UserError(f"{asked.file} was compressed with {header.weights!r} weights, which no run has.")
        which |= {"weights": header.weights, "step": "best" if header.weights == "base" else header.step}
    model, began = seedfast.load(asked.run, **which), time.monotonic()
    try:
        plain = restore(model, file, name=str(asked.file), result=asked.out)
    except KeyboardInterrupt:
        say(f"{asked.out} is not written; what is done of it is kept, and the same command continues.")
        raise
    commit(asked.out, plain)
    put(f"{asked.out}: {len(plain):,} bytes, SHA-256 {header.sha256}")
    say(speed(len(plain), time.monotonic() - began))
    return 0
