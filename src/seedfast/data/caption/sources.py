"""Sources of images with captions: lists in JSON and CSV, Hugging Face data sets, glyphs."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from seedfast.data.caption.annotations import Annotation, read_json, read_table
from seedfast.data.image.decode import open_image
from seedfast.data.image.glyphs import SplitBy, glyph_source
from seedfast.data.prepare import SourceFiles
from seedfast.errors import UserError

LoadImage = Callable[[int], Image.Image]
"""Loads an image; one that is drawn instead of read is drawn at this size. Raises one of `decode.DECODE_ERRORS`."""


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


def listed_captions(path: Path, images: Path | None, validation_split: Literal["val", "test"]) -> CaptionSource:
    """The images that a JSON or CSV file lists.

    images: their folder (default: images/ beside the file if it exists, else the file's folder). validation_split: the
    split of a Karpathy file that validates; the other is not used. Raises UserError for an unknown format.
    """
    skipped: list[str] = []
    annotations = read_json(path, validation_split) if path.suffix == ".json" else read_table(path, skipped)
    if not annotations:
        why = f": {skipped[0]} is not an image and a caption, separated by |, a comma or a tab" if skipped else ""
        raise UserError(f"{path} lists no images with captions{why}.")
    root = images or (path.parent / "images" if (path.parent / "images").is_dir() else path.parent)
    if not root.is_dir():
        raise UserError(f"The image folder {root} does not exist: name it in data.images.")
    merged: dict[str, Annotation] = {}
    for name, captions, split in annotations:
        earlier = merged.get(name, Annotation(name, (), split))
        merged[name] = Annotation(name, earlier.captions + captions, split)
    found = [each for each in merged.values() if any(caption.strip() for caption in each.captions)]
    skipped += [f"{name} (no caption)" for name in merged.keys() - {each.name for each in found}]
    return ListSource(
        str(path),
        root,
        tuple(each.name for each in found),
        skipped=tuple(sorted(skipped)),
        annotations=tuple(found),
    )
