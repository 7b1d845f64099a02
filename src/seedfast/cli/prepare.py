"""`seedfast prepare`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Flickr30k:
    """Convert a Flickr30k archive or folder into a folder to train on: captions.json and images/.

    With the table of the hub (flickr_annotations_30k.csv) also karpathy.json, the same with the usual split.
    """

    archive: tyro.conf.Positional[Path]
    """The archive: zip or tar, or any of its parts (.z01, .zip.001, _part00); or a folder with the table of captions
    and the pictures, unpacked or as archives."""
    out: Path
    """The folder to make; if it is there already, nothing is done."""


CHOICES = {"flickr30k": ("convert a Flickr30k archive or folder", Flickr30k)}


def prepare(words: list[str]) -> int:
    """Prepare a data set that comes as an archive: flickr30k."""
    from seedfast.errors import UserError

    if words[:1] in ([], ["-h"], ["--help"]):
        print("usage: seedfast prepare flickr30k ARCHIVE --out FOLDER")
        return 0 if words else 2
    if words[0] != "flickr30k":
        raise UserError(f"There is no data set called {words[0]} to prepare; there is flickr30k.")
    asked = parse(Flickr30k, words[1:], prog="seedfast prepare flickr30k")
    from seedfast.data.caption.flickr30k import KARPATHY, unpack

    file, count = unpack(asked.archive, asked.out)
    print(f"{count:,} images with captions: seedfast train image-caption --data {file}")
    if (split := file.with_name(KARPATHY)).is_file():
        print(f"with the split of Karpathy and Fei-Fei: seedfast train image-caption --data {split}")
    return 0
