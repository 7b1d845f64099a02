"""Where pictures come from: folders, lists in JSON, Hugging Face data sets. And how each becomes pixels."""

import io
import json
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from seedfast.data.fingerprint import Signature, signature
from seedfast.errors import UserError

Pixels = npt.NDArray[np.uint8]
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What `opened` raises on a file that is no picture, or only a part of one."""

_ASTRAY = (RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, struct.error)
"""What some of Pillow's decoders raise instead on bytes that they did not expect."""


def opened(file: Path | str | IO[bytes]) -> Image.Image:
    """The picture in a file, decoded. Raises one of `BROKEN`."""
    try:
        image = Image.open(file)
        image.load()
    except _ASTRAY as error:
        raise ValueError(f"{error or type(error).__name__}") from error
    return image


class Picture(NamedTuple):
    """One picture.

    name: for people. key: what its side of the split depends on. label: its class. caption: what it shows.
    role: "train" or "validation" where the source itself says so. read: its pixels, raising one of `BROKEN`.
    """

    name: str
    key: str
    label: str
    caption: str
    role: str | None
    read: Callable[[int, int], Pixels]


@dataclass(frozen=True)
class ImageFiles:
    """What images come from, in a fixed order: the files root/name for each of the names.

    title: what the messages call it. channels: 1 for grey pictures, 3 for coloured ones, unless asked otherwise.
    skipped: what was left out when the names were collected.
    """

    title: str
    root: Path
    names: tuple[str, ...]
    channels: int = 3
    skipped: tuple[str, ...] = ()

    def signatures(self) -> dict[str, Signature]:
        """What the file system says of each file."""
        return {name: signature(self.root / name) for name in self.names}


class PictureSource(ImageFiles, ABC):
    """Pictures, made of files."""

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """All pictures."""


def upright(image: Image.Image) -> Image.Image:
    """A picture of its own size, as its camera was turned, with 8 bits, opaque on white. Raises one of `BROKEN`."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # theirs have 16 bits
        raise ValueError(f"{'floating-point' if image.mode == 'F' else '32-bit'} pixels, whose range is unknown")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits, which Pillow would cut off at 255; its transparent value becomes transparency."""
    values = np.asarray(image, np.int64).clip(0, 65535)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def pixels_of(image: Image.Image, size: int, channels: int) -> Pixels:
    """A picture as uint8 [C, size, size]: upright, opaque on white, its middle square, scaled if need be.

    Values are scaled by their type (16 bits to 8), never by what the picture happens to hold.
    """
    image = upright(image).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    values = np.asarray(image, np.uint8)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def _reader(file: Path | IO[bytes]) -> Callable[[int, int], Pixels]:
    """A picture's `read`, given its file."""

    def read(size: int, channels: int) -> Pixels:
        with opened(file) as image:
            return pixels_of(image, size, channels)

    return read


@dataclass(frozen=True)
class FileSource(PictureSource):
    """Picture files, of which the source knows label, caption and role."""

    facts: tuple[tuple[str, str, str | None], ...] = ()

    def pictures(self) -> Iterator[Picture]:
        for name, (label, caption, role) in zip(self.names, self.facts, strict=True):
            path = self.root / name
            yield Picture(name, name, label, caption, role, _reader(path))


def folder_source(root: Path) -> PictureSource:
    """The pictures of a folder, one class for each sub-folder; without sub-folders all are of one class.

    Raises UserError if there are none.
    """
    endings = Image.registered_extensions()
    names: list[str] = []
    skipped: list[str] = []
    for folder, folders, files in os.walk(root, onerror=lambda error: skipped.append(f"{error.filename} (unreadable)")):
        inside = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [inside / name for name in folders if (Path(folder) / name).is_symlink()]  # os.walk enters none
        skipped.extend(f"{name.as_posix()} (link to a folder)" for name in linked)
        for file in (each for each in files if not each.startswith(".")):
            name = (inside / file).as_posix()
            if Path(file).suffix.lower() in endings:
                names.append(name)
            else:
                skipped.append(f"{name} (not a picture)")
    nested = [name for name in names if "/" in name]
    if nested and len(nested) < len(names):
        skipped += [f"{name} (in no class's folder)" for name in names if "/" not in name]
        names = nested
    if not names:
        raise UserError(f"There is no picture in {root}: put one folder of pictures for each class into it.")
    facts = [(Path(name).parts[0] if nested else "picture", Path(name).stem, None) for name in sorted(names)]
    return FileSource(str(root), root, tuple(sorted(names)), 3, tuple(sorted(skipped)), tuple(facts))


def listed_source(path: Path) -> PictureSource:
    """The pictures that a JSON file lists, with their split.

    {"train": …, "validation": …}, each a list of {"image": path, "class": name, "caption": text} (the last two may be
    missing) or a mapping of classes to lists of paths. Paths are relative to the file. Raises UserError otherwise.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}).") from None
    if not isinstance(content, dict) or content.keys() != {"train", "validation"}:
        found = f"the keys {', '.join(content)}" if isinstance(content, dict) and content else "none"
        raise UserError(
            f'{path} must be an object with the keys "train" and "validation", each a list of pictures; it has {found}.'
        )
    names: list[str] = []
    facts: list[tuple[str, str, str | None]] = []
    for role, entries in content.items():
        for entry in _entries(entries, f"{path}: {role}"):
            name = str(entry["image"])
            names.append(name)
            label, caption = (entry.get(key) for key in ("class", "caption"))
            facts.append((_text(label, "picture"), _text(caption, Path(name).stem), role))
    places: dict[str, str] = {}  # of the files themselves, however they are written
    for name in names:
        place = os.path.realpath(path.parent / name)
        if place in places:
            both = f"{name} more than once" if places[place] == name else f"{places[place]} again as {name}"
            raise UserError(f"{path} lists {both}, so a picture could train and validate at once.")
        places[place] = name
    return FileSource(str(path), path.parent, tuple(names), 3, (), tuple(facts))


def _entries(entries: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(entries, dict) and all(isinstance(names, list) for names in entries.values()):
        entries = [{"image": name, "class": label} for label, names in entries.items() for name in names]
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and isinstance(each.get("image"), str) and "\0" not in each["image"] for each in entries
    ):
        raise UserError(f'{where} must be a list of objects with the key "image", or map classes to lists of paths.')
    return entries


def _text(value: Any, missing: str) -> str:
    """A name that JSON holds, or what stands for it where it holds none."""
    return missing if value is None else str(value)


@dataclass(frozen=True)
class HubSource(PictureSource):
    """The rows of a Hugging Face data set."""

    rows: Any = None
    image: str = "image"
    label: str | None = None

    def pictures(self) -> Iterator[Picture]:
        names = getattr(self.rows.features.get(self.label), "names", None) if self.label else None
        for number, row in enumerate(self.rows):
            label = "picture" if self.label is None else _named(row[self.label], names)
            read = _unread("no picture") if row[self.image] is None else _reader(_held(row[self.image]))
            if label is None:
                read = _unread("no class")
            yield Picture(f"row {number}", str(number), label or "", label or "", None, read)


def _named(value: Any, names: Sequence[str] | None) -> str | None:
    """The name of a class; None where there is none, which data sets write as None or -1."""
    if value is None or (names and value < 0):
        return None
    return names[value] if names else str(value)


def _held(held: Mapping[str, Any]) -> Path | IO[bytes]:
    return Path(held["path"]) if held["bytes"] is None else io.BytesIO(held["bytes"])


def _unread(why: str) -> Callable[[int, int], Pixels]:
    """The `read` of a picture that there is not."""

    def read(size: int, channels: int) -> Pixels:
        raise ValueError(why)

    return read


def hub_pictures(name: str, image: str, label: str | None) -> PictureSource:
    """The pictures of the data set NAME, NAME:CONFIGURATION or a folder that `save_to_disk` wrote.

    Raises UserError if it cannot be had or lacks the columns.
    """
    from seedfast.data.hub_rows import hub_rows

    rows, root, names = hub_rows(name)
    import datasets

    for column in (image, label):
        if column is not None and column not in rows.column_names:
            raise UserError(
                f'The data set hf:{name} lacks the column "{column}" (it has {", ".join(rows.column_names)}): '
                "name its columns in image_field and label_field."
            )
    if not isinstance(rows.features[image], datasets.Image):
        raise UserError(f'The column "{image}" of hf:{name} holds no pictures but {rows.features[image]}.')
    rows = rows.cast_column(image, datasets.Image(decode=False))
    return HubSource(f"hf:{name}", root, names, rows=rows, image=image, label=label)
