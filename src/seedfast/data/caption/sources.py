"""Sources of images with captions: lists in JSON and tables, Hugging Face data sets, glyphs."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from seedfast.console import abbreviate
from seedfast.data.caption.annotations import Annotation, read_annotations, with_split
from seedfast.data.given_split import SPLIT_NAMES
from seedfast.data.image.decode import open_image
from seedfast.data.image.glyphs import SplitBy, glyph_source
from seedfast.data.prepare import SourceFiles
from seedfast.errors import UserError

LoadImage = Callable[[int], Image.Image]
"""Loads an image; one that is drawn instead of read is drawn at this size. Raises ImageError."""


class CaptionedImage(NamedTuple):
    """One image with its captions.

    name: for messages. split_key: images of one key are in one split. split: "train" or "validation" where
    the source itself defines the split.
    """

    name: str
    split_key: str
    captions: tuple[str, ...]
    split: str | None
    load: LoadImage


@dataclass(frozen=True)
class CaptionSource(SourceFiles, ABC):
    """Images with captions, made from files. channels: 1 for grey images, 3 for colour, unless the options differ."""

    channels: int = field(default=3, kw_only=True)

    @property
    def has_split(self) -> bool:
        """Whether the source itself defines the split."""
        return False

    @abstractmethod
    def identity(self) -> Any:
        """What the images depend on besides the contents of the files, as JSON: part of the cache key."""

    @abstractmethod
    def images(self) -> Iterator[CaptionedImage]:
        """All images."""


@dataclass(frozen=True)
class ListSource(CaptionSource):
    """Image files that a list names. Files of equal content are in one split."""

    annotations: tuple[Annotation, ...] = field(default=(), kw_only=True)

    @property
    def has_split(self) -> bool:
        return any(each.split is not None for each in self.annotations)

    def identity(self) -> Any:
        return [list(each) for each in self.annotations]

    def images(self) -> Iterator[CaptionedImage]:
        for name, captions, split in self.annotations:

            def load(_: int, path: Path = self.root / name) -> Image.Image:
                return open_image(path)

            yield CaptionedImage(name, self.contents[name], captions, split, load)


@dataclass(frozen=True)
class GlyphCaptions(CaptionSource):
    """Characters with their names and faces. Where validation holds new faces, captions do not name the face."""

    split_by: SplitBy = field(default="image", kw_only=True)

    def identity(self) -> Any:
        return ["glyphs", self.split_by]

    def images(self) -> Iterator[CaptionedImage]:
        for glyph in glyph_source("script", self.split_by).images():
            caption = glyph.caption.rpartition(", ")[0] if self.split_by == "face" else glyph.caption

            def load(size: int, read: Callable[[int, int], Any] = glyph.read) -> Image.Image:
                return Image.fromarray(read(size, 1)[0])

            yield CaptionedImage(glyph.name, glyph.split_key, (caption,), None, load)


@dataclass(frozen=True)
class RowSource(CaptionSource):
    """The rows of a Hugging Face data set."""

    rows: Any = field(kw_only=True)
    image_column: str = field(kw_only=True)
    caption_column: str = field(kw_only=True)

    def identity(self) -> Any:
        return [self.image_column, self.caption_column]

    def images(self) -> Iterator[CaptionedImage]:
        for number, row in enumerate(self.rows):
            image = row[self.image_column] or {"bytes": b"", "path": None}
            value = row[self.caption_column]
            captions = value if isinstance(value, list | tuple) else (value,)
            content = image["bytes"] if image["bytes"] is not None else str(image["path"]).encode()

            def load(_: int, image: Mapping[str, Any] = image) -> Image.Image:
                return open_image(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"])

            known = tuple(str(caption) for caption in captions if caption is not None)
            yield CaptionedImage(f"row {number}", hashlib.sha256(content).hexdigest(), known, None, load)


def glyph_captions(split_by: SplitBy) -> CaptionSource:
    """All glyphs."""
    source = glyph_source("script", split_by)
    return GlyphCaptions("glyphs", source.root, source.names, channels=1, split_by=split_by)


def row_captions(name: str, image_column: str, caption_column: str) -> CaptionSource:
    """The images of a data set on the hub or in a folder.

    Raises UserError if it cannot be loaded or lacks the columns.
    """
    from seedfast.data.hub_rows import hub_images

    rows, root, names = hub_images(name, image_column, caption_column, "data.caption_field")
    return RowSource(f"hf:{name}", root, names, rows=rows, image_column=image_column, caption_column=caption_column)


def listed_captions(path: Path, images: Path | None, validation_split: Literal["val", "test"] | None) -> CaptionSource:
    """The images that a JSON file, JSON lines or a table list, or the metadata file of a folder.

    images: their folder (default: images/ beside the file if they are there, else the file's folder).
    validation_split: the part of a given split that validates; the other is not used. Raises UserError for an unknown
    format.
    """
    skipped: list[str] = []
    files = _metadata(path) if path.is_dir() else {path: ""}
    listed: list[Annotation] = []
    for file, below in files.items():
        found = read_annotations(file, skipped)
        split = SPLIT_NAMES[below.lower()] if below else None
        listed += [Annotation(f"{below}/{each.name}", each.captions, split) for each in found] if below else found
    annotations = with_split(listed, validation_split, str(path))
    if not annotations:
        raise UserError(f"{path} lists no images with captions" + (f": {abbreviate(skipped)}." if skipped else "."))
    root = images or _image_folder(path if path.is_dir() else path.parent, annotations[0].name)
    if not root.is_dir():
        raise UserError(f"The image folder {root} does not exist: name it in data.images.")
    has_caption = {each.name: any(caption.strip() for caption in each.captions) for each in annotations}
    usable = [each for each in annotations if has_caption[each.name]]
    skipped += [f"{name} (no caption)" for name, has_one in has_caption.items() if not has_one]
    return ListSource(
        str(path),
        root,
        tuple(each.name for each in usable),
        skipped=tuple(sorted(skipped)),
        annotations=tuple(usable),
    )


METADATA = ("captions.json", "metadata.jsonl", "metadata.csv")
"""Files that list the images of the folder that they lie in; metadata.* is the layout of the hub."""


def _metadata(folder: Path) -> dict[Path, str]:
    """The list of a folder's images, or those of its sub-folders for the splits, with the sub-folder's name."""
    if found := _list_in(folder):
        return {found: ""}
    parts = [each for each in sorted(folder.iterdir()) if each.is_dir() and each.name.lower() in SPLIT_NAMES]
    if below := {found: each.name for each in parts if (found := _list_in(each))}:
        return below
    raise UserError(
        f"The folder {folder} holds none of {', '.join(METADATA)}: name the file that lists its images and captions "
        "(seedfast prepare flickr30k makes one of Flickr30k's archives or folders)."
    )


def _list_in(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"The folder {folder} holds {' and '.join(path.name for path in found)}: name one of them.")
    return found[0] if found else None


def _image_folder(beside: Path, first: str) -> Path:
    """images/ if it exists, unless the first image of the list lies beside the list itself."""
    inside = beside / "images"
    return inside if inside.is_dir() and ((inside / first).exists() or not (beside / first).exists()) else beside
