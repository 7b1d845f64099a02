"""Flickr30k: archives, as Kaggle and the hub have them, become a folder with captions.json and images/."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from seedfast.console import abbreviate, say
from seedfast.data.caption import archives
from seedfast.data.caption.annotations import JSON_LINES, Annotation, read_annotations
from seedfast.data.image.decode import has_image_ending
from seedfast.errors import UserError
from seedfast.files import to_json
from seedfast.sealed_folder import new_folder

CAPTIONS, KARPATHY = "captions.json", "karpathy.json"
"""The lists that are written: all images; and the same with the split of Karpathy & Fei-Fei 2015, if it is known."""

_TABLES = (".csv", ".tsv", ".token", ".txt", ".json", *JSON_LINES)
_DEPTH = 2  # archives inside an archive: the hub's repository as a zip holds a zip of the images


class _Files(NamedTuple):
    """What archives and folders hold. images: by their names without folders."""

    images: dict[str, Path]
    tables: list[Path]
    archives: list[Path]

    @staticmethod
    def of(paths: Iterable[Path]) -> "_Files":
        found = _Files({}, [], [])
        for path in sorted(paths):
            if not path.is_file() or "__MACOSX" in path.parts or path.name.startswith("."):
                continue
            if has_image_ending(path.name):
                found.images[path.name] = path
            elif path.suffix.lower() in _TABLES:
                found.tables.append(path)
            elif archives.is_archive(path):
                found.archives.append(path)
        return found

    def add(self, others: "_Files") -> None:
        self.images.update(others.images)
        self.tables.extend(others.tables)


def unpack(archive: Path, folder: Path) -> tuple[Path, int]:
    """Make `folder`, with captions.json and images/, of an archive of Flickr30k or a folder that holds its files.

    archive: zip or tar, also in parts; a folder may hold tables, images and archives of them. The folder is complete or
    absent; if it is there already, nothing is done. Returns the JSON file and the number of images with captions.
    Raises UserError if images or table are missing, or an archive cannot be unpacked.
    """
    folder = folder.expanduser().absolute()
    if (folder / CAPTIONS).is_file():
        say(f"{folder / CAPTIONS} is already there, and stays as it is: to make it again, name another folder.")
        return folder / CAPTIONS, len(read_annotations(folder / CAPTIONS, []))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder.")
    if not archive.exists():
        raise UserError(f"{archive} is neither an archive nor a folder.")
    with new_folder(folder) as made, tempfile.TemporaryDirectory(dir=made, prefix=".unpacked-") as temporary:
        found = _found(archive, Path(temporary))
        annotations = _captions(found, archive)
        (made / "images").mkdir()
        for name in annotations:
            if Path(temporary) in found.images[name].parents:
                found.images[name].rename(made / "images" / name)
            else:
                shutil.copyfile(found.images[name], made / "images" / name)
        captions = {name: list(each.captions) for name, each in annotations.items()}
        (made / CAPTIONS).write_text(to_json(captions), "utf-8")
        if all(each.split for each in annotations.values()):
            (made / KARPATHY).write_text(to_json({"images": _karpathy(annotations)}), "utf-8")
    return folder / CAPTIONS, len(annotations)


def _found(archive: Path, temporary: Path) -> _Files:
    """The files of a folder or an archive, with those in the archives that they hold."""
    found = _Files.of(archive.rglob("*")) if archive.is_dir() else _Files({}, [], [archive])
    waiting = [(path, 1) for path in found.archives]
    budget = archives.Budget(sum(part.stat().st_size for path in found.archives for part in archives.parts(path)))
    while waiting:
        path, depth = waiting.pop()
        inside = {name for name in archives.names(path) if has_image_ending(name)}
        if inside and inside <= found.images.keys():
            say(f"The images of {path.name} are already there, so it is not unpacked again.")
            continue
        target = Path(tempfile.mkdtemp(dir=temporary))
        archives.unpack(path, target, budget)
        more = _Files.of(target.rglob("*"))
        found.add(more)
        if depth < _DEPTH:
            waiting += [(each, depth + 1) for each in more.archives]
    return found


def _captions(found: _Files, archive: Path) -> dict[str, Annotation]:
    """The images of the largest table that lists any of them, by name. Raises UserError if there is none."""
    for table in sorted(found.tables, key=lambda path: -path.stat().st_size):
        skipped: list[str] = []
        try:
            listed = read_annotations(table, skipped)
        except UserError:  # such as a text about the data
            continue
        merged: dict[str, Annotation] = {}
        for name, captions, split in listed:
            earlier = merged.get(Path(name).name, Annotation(Path(name).name, ()))
            merged[earlier.name] = Annotation(earlier.name, earlier.captions + captions, split)
        usable = {name: each for name, each in merged.items() if name in found.images and each.captions}
        if not usable:
            continue
        skipped += [f"{name} (missing)" for name in merged.keys() - usable.keys()]
        if skipped:
            say(f"Left out of {table.name}: {abbreviate(sorted(skipped))}.")
        return usable
    raise UserError(
        f"{archive} holds {len(found.images)} images and {len(found.tables)} tables, but no table with their captions."
    )


def _karpathy(annotations: Mapping[str, Annotation]) -> list[dict[str, object]]:
    """The entries of a Karpathy split."""
    named = {"validation": "val"}
    return [
        {
            "filename": name,
            "split": named.get(str(each.split), each.split),
            "sentences": [{"raw": caption} for caption in each.captions],
        }
        for name, each in annotations.items()
    ]
