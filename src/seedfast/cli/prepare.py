"""`seedfast prepare`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Flickr30k:
    """Convert a Flickr30k archive (zip or tar) or folder into a folder to train on: captions.json and images/."""

    archive: tyro.conf.Positional[Path]
    """The archive, or a folder that it was unpacked into; a table of captions and the pictures are found in it."""
    out: Path
    """The folder to make."""


def prepare(words: list[str]) -> int:
    """Prepare a data set that comes as an archive: flickr30k."""
    from seedfast.errors import UserError

    if words[:1] in ([], ["-h"], ["--help"]):
        print("usage: seedfast prepare flickr30k ARCHIVE --out FOLDER")
        return 0 if words else 2
    if words[0] != "flickr30k":
        raise UserError(f"There is no data set called {words[0]} to prepare; there is flickr30k.")
    asked = tyro.cli(Flickr30k, args=words[1:], prog="seedfast prepare flickr30k")
    from seedfast.data.caption.flickr30k import unpack

    file, count = unpack(asked.archive, asked.out)
    print(f"{count:,} images with captions: seedfast train image-caption --data {file}")
    return 0
