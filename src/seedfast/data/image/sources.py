"""Sources of images: lists in JSON, Hugging Face data sets, functions of your own."""

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from seedfast.data.image.decode import ImageError, PixelArray, open_image, to_pixels
from seedfast.data.json_rows import read_json
from seedfast.data.names import is_utf8
from seedfast.data.prepare import SourceFiles
from seedfast.data.split import FirstOf
from seedfast.errors import UserError
from seedfast.user_code import own_function

ONE_CLASS = "picture"
"""The class of images without a class."""

Read = Callable[[int, int], PixelArray]
"""(size, channels) → the pixels of an image. Raises ImageError."""


class ImageEntry(NamedTuple):
    """One image of a source.

    name: for messages. split_key: images of one key are in one split. label: the class. caption: a description.
    split: "train" or "validation" if the source defines the split. read: its pixels.
    """

    name: str
    split_key: str
    label: str
    caption: str
    split: str | None
    read: Read


@dataclass(frozen=True)
class ImageFiles(SourceFiles):
    """The files that images come from.

    channels: the default number of channels, 1 for grey images, 3 for colour.
    """

    channels: int = 3


class ImageSource(ImageFiles, ABC):
    """Images that are read from files."""

    @property
    def has_split(self) -> bool:
        """Whether the source itself defines the split."""
        return False

    @abstractmethod
    def images(self) -> Iterator[ImageEntry]:
        """All images."""

    def identity(self) -> Any:
        """What the images depend on besides the files' contents, as JSON."""
        return ()


class FileInfo(NamedTuple):
    """What a source knows about an image file: its class, its caption, and its split if the source defines it."""

    label: str
    caption: str
    split: str | None


@dataclass(frozen=True)
class ImageFileSource(ImageSource):
    """Image files, with the information about each."""

    info: tuple[FileInfo, ...] = ()

    @property
    def has_split(self) -> bool:
        return any(each.split is not None for each in self.info)

    def images(self) -> Iterator[ImageEntry]:
        first_of = FirstOf()
        for name, (label, caption, split) in zip(self.names, self.info, strict=True):
            key = first_of(self.contents[name], name)
            yield ImageEntry(name, key, label, caption, split, _file_reader(self.root / name))

    def identity(self) -> Any:
        return self.info


def _file_reader(file: Path | IO[bytes]) -> Read:
    def read(size: int, channels: int) -> PixelArray:
        with open_image(file) as image:
            return to_pixels(image, size, channels)

    return read


def _failing_reader(reason: str) -> Read:
    """A reader that always fails, for entries without an image."""

    def read(size: int, channels: int) -> PixelArray:
        raise ImageError(reason)

    return read


# ---- lists ------------------------------------------------------------------------------------------------------


def json_source(path: Path) -> ImageSource:
    """The images that a JSON file lists, with their split.

    {"train": …, "validation": …}, each a list of {"image": path, "class": name, "caption": text} (the last two are
    optional) or a mapping of classes to lists of paths. Paths are relative to the file. Raises UserError otherwise.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.keys() != {"train", "validation"}:
        found = f"the keys {', '.join(content)}" if isinstance(content, dict) and content else "none"
        raise UserError(
            f'{path} must be an object with the keys "train" and "validation", each a list of pictures; it has {found}.'
        )
    names: list[str] = []
    info: list[FileInfo] = []
    for split, entries in content.items():
        for entry in _entries(entries, f"{path}: {split}"):
            name = str(entry["image"])
            names.append(name)
            label, caption = (entry.get(key) for key in ("class", "caption"))
            if not is_utf8(f"{name}{label}{caption}"):
                raise UserError(f"{path} has half a character (a lone surrogate) in the entry of {name!a}: fix it.")
            info.append(FileInfo(_text(label, ONE_CLASS), _text(caption, Path(name).stem), split))
    _check_distinct(path, names)
    return ImageFileSource(str(path), path.parent, tuple(names), info=tuple(info))


LIST_READERS: Mapping[str, Callable[[Path], ImageSource]] = {".json": json_source}
"""The formats of files that list images, by their suffix in lower case."""


def _check_distinct(path: Path, names: Sequence[str]) -> None:
    """Raise UserError if two names are the same file, however they are written."""
    places: dict[str, str] = {}
    for name in names:
        place = os.path.realpath(path.parent / name)
        if place in places:
            both = f"{name} more than once" if places[place] == name else f"{places[place]} again as {name}"
            raise UserError(f"{path} lists {both}, so a picture could train and validate at once.")
        places[place] = name


def _entries(entries: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(entries, dict) and all(isinstance(names, list) for names in entries.values()):
        entries = [{"image": name, "class": label} for label, names in entries.items() for name in names]
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and isinstance(each.get("image"), str) and "\0" not in each["image"] for each in entries
    ):
        raise UserError(f'{where} must be a list of objects with the key "image", or map classes to lists of paths.')
    return entries


def _text(value: Any, default: str) -> str:
    """A JSON value as text; null is the default."""
    return default if value is None else str(value)


# ---- Hugging Face data sets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubImageSource(ImageSource):
    """The rows of a Hugging Face data set."""

    rows: Any = None
    image: str = "image"
    label: str | None = None

    def images(self) -> Iterator[ImageEntry]:
        names = getattr(self.rows.features.get(self.label), "names", None) if self.label else None
        first_of = FirstOf()
        for number, row in enumerate(self.rows):
            label = ONE_CLASS if self.label is None else _class_name(row[self.label], names)
            cell = row[self.image] or {"bytes": None, "path": None}
            has_image = cell["bytes"] is not None or cell["path"]
            read = _file_reader(_file(cell)) if has_image else _failing_reader("no picture")
            if label is None:
                read = _failing_reader("no class")
            key = first_of(_content(row[self.image]) if row[self.image] else str(number), str(number))
            yield ImageEntry(f"row {number}", key, label or "", label or "", None, read)


def _class_name(value: Any, names: Sequence[str] | None) -> str | None:
    """The name of a class; None for a missing one, which data sets write as None or -1."""
    if value is None or (names and value < 0):
        return None
    return names[value] if names else str(value)


def _content(cell: Mapping[str, Any]) -> str:
    """A digest of an image's file; of one outside the data set, its path."""
    content = cell["bytes"] if cell["bytes"] is not None else str(cell["path"]).encode()
    return hashlib.sha256(content).hexdigest()


def _file(cell: Mapping[str, Any]) -> Path | IO[bytes]:
    return Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])


def hub_source(name: str, image: str, label: str | None) -> ImageSource:
    """The images of the data set NAME, NAME:CONFIGURATION or a folder that `save_to_disk` wrote.

    image, label: the columns. Raises UserError if the data set could not be loaded or lacks the columns.
    """
    from seedfast.data.hub_rows import hub_images

    rows, root, names = hub_images(name, image, label, "data.label_field")
    return HubImageSource(f"hf:{name}", root, names, rows=rows, image=image, label=label)


# ---- functions of your own --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageFunctionSource(ImageSource):
    """The images that a function of your own yields.

    The function is called whenever the data is loaded, to find their digest, and again when they are read. Every call
    must yield the same images in the same order.
    """

    function: Callable[[], Iterable[Any]] = tuple
    function_name: str = ""

    def images(self) -> Iterator[ImageEntry]:
        first_of, total = FirstOf(), hashlib.sha256()
        for number, (image, label, content) in enumerate(self._pairs(total)):

            def read(size: int, channels: int, image: Image.Image = image) -> PixelArray:
                return to_pixels(image, size, channels)

            yield ImageEntry(f"image {number}", first_of(content, str(number)), label, label, None, read)
        if total.hexdigest() != self._digest:
            raise UserError(
                f"{self.title} yields other images when it is called again: every call must yield the same images in "
                "the same order (give random numbers a seed, and sort what you list)."
            )

    def identity(self) -> Any:
        return [self.function_name, self._digest]

    @cached_property
    def _digest(self) -> str:
        """SHA-256 of all images and their classes."""
        total = hashlib.sha256()
        for _ in self._pairs(total):
            pass
        return total.hexdigest()

    def _pairs(self, total: "hashlib._Hash") -> Iterator[tuple[Image.Image, str, str]]:
        """The image, the class and the digest of the pixels of each pair of one call, which are added to `total`."""
        for number, pair in enumerate(self.function()):
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise UserError(f"{self.title} must yield pairs (image, class or None), but item {number} is {pair!r}.")
            image, label = _as_image(pair[0], f"image {number} of {self.title}"), _text(pair[1], ONE_CLASS)
            content = hashlib.sha256(image.tobytes()).hexdigest()
            total.update(f"{json.dumps([image.mode, image.size, label])} {content}\n".encode())
            yield image, label, content


def _as_image(value: Any, where: str) -> Image.Image:
    """An image of Pillow as it is, or made of an array. Raises UserError for anything else."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        values = value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
        if values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4)):
            return Image.fromarray(values)
    found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    raise UserError(
        f"The {where} must be an image of Pillow or an array uint8 [H, W] or [H, W, 1, 3 or 4], not {found}."
    )


def function_source(path: str) -> ImageSource:
    """The images of the function that path/to/file.py:function names. Raises UserError if there is none."""
    function, located = own_function(path)
    file, _, name = located.rpartition(":")
    return ImageFunctionSource(located, Path(file).parent, (Path(file).name,), function=function, function_name=name)
