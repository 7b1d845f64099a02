"""Files that list images with captions: JSON mappings, Karpathy splits, COCO annotations, Flickr tables."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from seedfast.errors import UserError


class Annotation(NamedTuple):
    """An image in a list. name: its file. split: "train" or "validation" where the list defines the split."""

    name: str
    captions: tuple[str, ...]
    split: str | None = None


def read_json(path: Path, validation_split: str) -> list[Annotation]:
    """{file: [captions]}, a Karpathy split, or COCO annotations. Raises UserError for another format."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}).") from None
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _coco(content)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return _karpathy(content, validation_split)
        if isinstance(content, dict):
            return [Annotation(str(name), caption_list(captions)) for name, captions in content.items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is malformed ({error!r}): correct it.") from error
    raise UserError(
        f"{path} must map files to lists of captions, or be a Karpathy split or COCO annotations: "
        f"it holds a {type(content).__name__}."
    )


def caption_list(value: Any) -> tuple[str, ...]:
    """Captions that are a text or a list of texts. Raises TypeError for anything else."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError(f"captions must be a text or a list of texts, not {value!r:.60}")
    return tuple(captions)


def _coco(content: Mapping[str, Any]) -> list[Annotation]:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).extend(caption_list(annotation["caption"]))
    return [Annotation(image["file_name"], tuple(captions.get(image["id"], ()))) for image in content["images"]]


def _karpathy(content: Mapping[str, Any], validation_split: str) -> list[Annotation]:
    """Karpathy & Fei-Fei 2015: train, restval, val and test; restval is part of the training data, as usual."""
    splits = {"train": "train", "restval": "train", validation_split: "validation"}
    return [
        Annotation(
            f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"],
            caption_list([sentence["raw"] for sentence in image["sentences"]]),
            splits[image["split"]],
        )
        for image in content["images"]
        if image["split"] in splits
    ]


def read_table(path: Path, skipped: list[str]) -> list[Annotation]:
    """Flickr tables: image, perhaps a number, and caption, separated by |, a comma or a tab.

    A first line without an image's name is a header. Rows of another form are added to `skipped`. Raises UserError for
    text that is not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): convert it.") from None
    rows, delimiter = _rows(text)
    endings = Image.registered_extensions()
    start = 1
    if rows and Path(_image_of(rows[0])).suffix.lower() not in endings:
        rows, start = rows[1:], 2
    annotations = []
    numbered = bool(rows) and len(rows[0]) > 2 and rows[0][1].strip().isdigit()
    for number, row in enumerate(rows, start=start):
        if not row:
            continue
        caption = delimiter.join(row[2 if numbered else 1 :]).strip()
        is_image = Path(_image_of(row)).suffix.lower() in endings
        if not is_image or not caption or (numbered and not row[1].strip().isdigit()):
            skipped.append(f"line {number} ({delimiter.join(row)[:60]!r})")
            continue
        annotations.append(Annotation(_image_of(row), (caption,)))
    return annotations


def _rows(text: str) -> tuple[list[list[str]], str]:
    """The rows of a table, and the delimiter that its first line contains."""
    first = text.partition("\n")[0]
    delimiter = "|" if "|" in first else "\t" if "\t" in first else ","
    if delimiter == ",":
        return list(csv.reader(io.StringIO(text), skipinitialspace=True)), delimiter
    # Captions contain quotation marks, which quote nothing here.
    unquoted = csv.reader(io.StringIO(text), delimiter=delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=True)
    return list(unquoted), delimiter


def _image_of(row: Sequence[str]) -> str:
    """The image file of a row. Flickr's token files number the captions of an image as image.jpg#0."""
    return row[0].strip().partition("#")[0] if row else ""
