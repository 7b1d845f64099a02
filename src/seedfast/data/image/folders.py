"""Folders of images: a sub-folder for each class, perhaps below a folder for each split."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from seedfast.data.given_split import NEVER_TRAINED, SPLIT_NAMES, given_split
from seedfast.data.image.decode import has_image_ending
from seedfast.data.image.sources import ONE_CLASS, FileInfo, ImageFileSource, ImageSource
from seedfast.data.names import is_utf8
from seedfast.data.prepare import is_run_folder
from seedfast.errors import UserError


class Found(NamedTuple):
    """The images of a folder by their relative names, sorted, and everything else, each with the reason."""

    names: list[str]
    skipped: list[str]


def find_images(root: Path) -> Found:
    """The files of a folder, at any depth, whose names end as an image's. Hidden files and __MACOSX are passed over."""
    names: list[str] = []
    skipped: list[str] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: skipped.append(f"{error.filename} (unreadable)")):
        inside = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        runs = [name for name in folders if is_run_folder(Path(folder) / name)]
        skipped.extend(f"{(inside / name).as_posix()} (run folder)" for name in runs)
        folders[:] = [name for name in folders if name not in runs]
        linked = [inside / name for name in folders if (Path(folder) / name).is_symlink()]  # os.walk enters none
        skipped.extend(f"{name.as_posix()} (link to a folder)" for name in linked)
        for file in (each for each in files if not each.startswith(".")):
            name = (inside / file).as_posix()
            if not is_utf8(name):
                skipped.append(f"{ascii(name)[1:-1]} (a name that is not UTF-8)")
            elif has_image_ending(file):
                names.append(name)
            else:
                skipped.append(f"{name} (not a picture)")
    return Found(sorted(names), skipped)


def folder_source(root: Path) -> ImageSource:
    """The images of a folder, with one class for each sub-folder; without sub-folders all are of one class.

    set/train/CLASS and set/val/CLASS (valid, validation, dev; test where there is none of these) are a given split of
    the classes below. Raises UserError if there are no images.
    """
    names, skipped = find_images(root)
    if not names:
        raise UserError(f"There is no picture in {root}: add a sub-folder of pictures for each class.")
    splits = given_split({name.partition("/")[0] for name in names if "/" in name})
    if splits:
        unused = Counter(first for name in names if (first := name.partition("/")[0]) not in splits)
        skipped += [f"{first} ({_unused(first, count, splits)})" for first, count in unused.items()]
        names = [name for name in names if name.partition("/")[0] in splits]
    below = {name: name.partition("/")[2] if splits else name for name in names}
    if has_classes := any("/" in inner for inner in below.values()):
        skipped += [f"{name} (in no class's folder)" for name in names if "/" not in below[name]]
        names = [name for name in names if "/" in below[name]]
    info = [
        FileInfo(
            label=below[name].partition("/")[0] if has_classes else ONE_CLASS,
            caption=Path(name).stem,
            split=splits[name.partition("/")[0]] if splits else None,
        )
        for name in names
    ]
    return ImageFileSource(str(root), root, tuple(names), info=tuple(info), skipped=tuple(sorted(skipped)))


def _unused(folder: str, count: int, splits: Mapping[str, str | None]) -> str:
    """Why the pictures of a folder beside those of a given split are left out."""
    is_test = SPLIT_NAMES.get(folder.lower()) == "test"
    return f"{count} pictures of {NEVER_TRAINED}" if is_test else f"{count} pictures beside {' and '.join(splits)}"
