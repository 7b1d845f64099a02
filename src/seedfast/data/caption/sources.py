"""Where images with captions come from: lists in JSON and CSV, Hugging Face data sets, glyphs."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from seedfast.data.image.decode import open_image
from seedfast.data.image.glyphs import SplitBy, glyph_source
from seedfast.data.image.sources import ImageFiles
from seedfast.errors import UserError

Opens = Callable[[int], Image.Image]


class Captioned(NamedTuple):
    """One image and what was said about it.

    name: for people. key: what its side of the split depends on. role: "train" or "validation" where the source says
    so. opens: the picture; one that is drawn, at so many pixels. Raises one of `decode.DECODE_ERRORS`.
    """

    name: str
    key: str
    captions: tuple[str, ...]
    role: str | None
    opens: Opens


class Listed(NamedTuple):
    """An image that a file lists: where it is, what was said about it, and on which side it is if the file says so."""

    name: str
    captions: tuple[str, ...]
    role: str | None = None


class CaptionSource(ImageFiles):
    """Images with captions, made of files."""

    def identity(self) -> Any:
        """What else than the files' contents the images depend on, as JSON."""
        return None

    def images(self, contents: Mapping[str, str]) -> Iterator[Captioned]:
        """All images. contents: the hash of each file, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class ListSource(CaptionSource):
    """Picture files that a file lists. Files of equal content are one image: they are on the same side of the split."""

    listed: tuple[Listed, ...] = ()

    def identity(self) -> Any:
        return [list(each) for each in self.listed]

    def images(self, contents: Mapping[str, str]) -> Iterator[Captioned]:
        for name, captions, role in self.listed:

            def opens(_: int, path: Path = self.root / name) -> Image.Image:
                return open_image(path)

            yield Captioned(name, contents[name], captions, role, opens)


@dataclass(frozen=True)
class GlyphCaptions(CaptionSource):
    """Characters and their names. A face that was never seen cannot be named, so there captions leave it out."""

    unseen: SplitBy = "image"

    def identity(self) -> Any:
        return ["glyphs", self.unseen]

    def images(self, contents: Mapping[str, str]) -> Iterator[Captioned]:
        for glyph in glyph_source("script", self.unseen).images():
            caption = glyph.caption.rpartition(", ")[0] if self.unseen == "face" else glyph.caption

            def drawn(size: int, read: Callable[[int, int], Any] = glyph.read) -> Image.Image:
                return Image.fromarray(read(size, 1)[0])

            yield Captioned(glyph.name, glyph.split_key, (caption,), None, drawn)


@dataclass(frozen=True)
class RowSource(CaptionSource):
    """The rows of a Hugging Face data set."""

    rows: Any = None
    image: str = "image"
    caption: str = "caption"

    def identity(self) -> Any:
        return [self.image, self.caption]

    def images(self, contents: Mapping[str, str]) -> Iterator[Captioned]:
        for number, row in enumerate(self.rows):
            held, said = row[self.image] or {"bytes": b"", "path": None}, row[self.caption]
            captions = said if isinstance(said, list | tuple) else (said,)
            content = held["bytes"] if held["bytes"] is not None else str(held["path"]).encode()
            key = hashlib.sha256(content).hexdigest()

            def opens(_: int, held: Mapping[str, Any] = held) -> Image.Image:
                return open_image(io.BytesIO(held["bytes"]) if held["bytes"] is not None else held["path"])

            known = tuple(str(caption) for caption in captions if caption is not None)
            yield Captioned(f"row {number}", key, known, None, opens)


def glyph_captions(unseen: SplitBy) -> CaptionSource:
    """All glyphs."""
    source = glyph_source("script", unseen)
    return GlyphCaptions("glyphs", source.root, source.names, channels=1, unseen=unseen)


def row_captions(name: str, image: str, caption: str) -> CaptionSource:
    """The images of a data set on the hub or in a folder. Raises UserError if it cannot be had or lacks the columns."""
    from seedfast.data.hub_rows import hub_rows

    rows, root, names = hub_rows(name)
    import datasets

    for column in (image, caption):
        if column not in rows.column_names:
            raise UserError(
                f'The data set hf:{name} lacks the column "{column}" (it has {", ".join(rows.column_names)}): '
                "name its columns in image_field and caption_field."
            )
    if not isinstance(rows.features[image], datasets.Image):
        raise UserError(f'The column "{image}" of hf:{name} holds no pictures but {rows.features[image]}.')
    rows = rows.cast_column(image, datasets.Image(decode=False))
    return RowSource(f"hf:{name}", root, names, rows=rows, image=image, caption=caption)


def listed_captions(path: Path, images: Path | None, held_out: Literal["val", "test"]) -> CaptionSource:
    """The images that a JSON or CSV file lists.

    images: the folder that they are in (default: that of the file, or images/ in it). held_out: which part of a
    Karpathy split validates; the other is left alone. Raises UserError for a file of no known form.
    """
    skipped: list[str] = []
    listed = read_json(path, held_out) if path.suffix == ".json" else read_table(path, skipped)
    if not listed:
        why = f": {skipped[0]} is no image and caption parted by |, a comma or a tab" if skipped else ""
        raise UserError(f"{path} lists no images with captions{why}.")
    root = images or (path.parent / "images" if (path.parent / "images").is_dir() else path.parent)
    if not root.is_dir():
        raise UserError(f"The folder of the images {root} does not exist: name it in data.images.")
    merged: dict[str, Listed] = {}
    for name, captions, role in listed:
        before = merged.get(name, Listed(name, (), role))
        merged[name] = Listed(name, before.captions + captions, role)
    found = [each for each in merged.values() if any(caption.strip() for caption in each.captions)]
    skipped += [f"{name} (no caption)" for name in merged.keys() - {each.name for each in found}]
    return ListSource(
        str(path), root, tuple(each.name for each in found), listed=tuple(found), skipped=tuple(sorted(skipped))
    )


def read_json(path: Path, held_out: str) -> list[Listed]:
    """{file: [captions]}, a Karpathy split, or COCO's annotations."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}).") from None
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _coco(content)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return _karpathy(content, held_out)
        if isinstance(content, dict):
            return [Listed(str(name), _captions(said)) for name, said in content.items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not as its form wants it ({error!r}): mend it.") from error
    raise UserError(
        f"{path} must map files to lists of captions, or be a Karpathy split or COCO's annotations: "
        f"it holds a {type(content).__name__}."
    )


def _captions(said: Any) -> tuple[str, ...]:
    several = [said] if isinstance(said, str) else said
    if not isinstance(several, list) or not all(isinstance(caption, str) for caption in several):
        raise TypeError(f"captions must be a text or a list of texts, not {said!r:.60}")
    return tuple(several)


def _coco(content: Mapping[str, Any]) -> list[Listed]:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).extend(_captions(annotation["caption"]))
    return [Listed(image["file_name"], tuple(captions.get(image["id"], ()))) for image in content["images"]]


def _karpathy(content: Mapping[str, Any], held_out: str) -> list[Listed]:
    """Karpathy & Fei-Fei 2015: train, restval, val and test; restval is trained on, as the field does."""
    roles = {"train": "train", "restval": "train", held_out: "validation"}
    return [
        Listed(
            f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"],
            _captions([sentence["raw"] for sentence in image["sentences"]]),
            roles[image["split"]],
        )
        for image in content["images"]
        if image["split"] in roles
    ]


def read_table(path: Path, skipped: list[str]) -> list[Listed]:
    """Flickr's tables: image and caption, and a number between them in some, parted by | or commas or tabs.

    A first line without a picture's name is a header. Rows that are not of this form are named and left out.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): convert it.") from None
    first = text.partition("\n")[0]
    delimiter = "|" if "|" in first else "\t" if "\t" in first else ","
    lines = io.StringIO(text)
    if delimiter == ",":
        rows = list(csv.reader(lines, skipinitialspace=True))
    else:  # captions hold quotation marks
        rows = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=True))
    endings = Image.registered_extensions()

    def image_of(row: Sequence[str]) -> str:
        return row[0].strip().partition("#")[0] if row else ""  # Flickr's token files number captions as image.jpg#0

    if rows and Path(image_of(rows[0])).suffix.lower() not in endings:
        rows = rows[1:]
        start = 2
    else:
        start = 1
    listed = []
    numbered = bool(rows) and len(rows[0]) > 2 and rows[0][1].strip().isdigit()
    for number, row in enumerate(rows, start=start):
        if not row:
            continue
        said = delimiter.join(row[2 if numbered else 1 :]).strip()
        if Path(image_of(row)).suffix.lower() not in endings or not said or (numbered and not row[1].strip().isdigit()):
            skipped.append(f"line {number} ({delimiter.join(row)[:60]!r})")
            continue
        listed.append(Listed(image_of(row), (said,)))
    return listed
