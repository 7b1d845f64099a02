"""Files that list images with captions: JSON in its usual forms, JSON lines, and tables."""

import ast
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.data.caption.tables import IMAGE, NUMBER, read_table
from seedfast.data.given_split import SPLIT_NAMES
from seedfast.data.json_rows import json_lines, read_json
from seedfast.data.names import is_utf8
from seedfast.errors import UserError

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
"""The endings of JSON lines."""

_IMAGE_KEYS = (IMAGE, "file_name", "filename", "file", "image_name", "image_path", "file_path", "path", "img")
_CAPTION_KEYS = ("caption", "captions", "text", "texts", "sentence", "sentences", "raw", "comment", "description")
_NUMBERED_KEY = re.compile(rf"({'|'.join(_CAPTION_KEYS)})[ _-]?\d+")
"""Keys of a row, in the order in which they are looked for: its image, its captions, one of several captions."""


class Annotation(NamedTuple):
    """An image in a list. name: its file. split: "train", "validation" or "test" where the list defines the split."""

    name: str
    captions: tuple[str, ...]
    split: str | None = None


def read_annotations(path: Path, skipped: list[str]) -> list[Annotation]:
    """The images of a list and their captions, by the file's ending: JSON, JSON lines, or a table.

    Rows that cannot be read, and repeated rows, are added to `skipped`. Raises UserError for another format.
    """
    match path.suffix.lower():
        case ".json":
            return _json(path, skipped)
        case ending if ending in JSON_LINES:
            return _rows(((f"line {line}", row) for line, row in json_lines(path)), skipped)
        case _:
            rows = ((f"line {line}", cells) for line, cells in read_table(path, skipped))
            return _rows(rows, skipped, listed=_list_in_a_cell)


def caption_list(value: Any) -> tuple[str, ...]:
    """Captions that are a text or a list of texts. Raises TypeError for anything else."""
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
        raise TypeError(f"captions must be a text or a list of texts, not {value!r:.60}")
    return tuple(captions)


# ---- JSON -------------------------------------------------------------------------------------------------------


def _json(path: Path, skipped: list[str]) -> list[Annotation]:
    """{file: [captions]}, a Karpathy split, COCO annotations, or a list of objects."""
    content = read_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            return _coco(content)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return _karpathy(content, skipped)
        if isinstance(content, dict):
            return [Annotation(_file_name(name), caption_list(captions)) for name, captions in content.items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is malformed ({error!r}): correct it.") from error
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _rows(((f"entry {number}", row) for number, row in enumerate(content, start=1)), skipped)
    raise UserError(
        f"{path} must map files to lists of captions, be a list of objects with the keys image and caption, a Karpathy "
        f"split or COCO annotations: it holds a {type(content).__name__}."
    )


def _coco(content: Mapping[str, Any]) -> list[Annotation]:
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).extend(caption_list(annotation["caption"]))
    return [
        Annotation(_file_name(image["file_name"]), tuple(captions.get(image["id"], ()))) for image in content["images"]
    ]


def _karpathy(content: Mapping[str, Any], skipped: list[str]) -> list[Annotation]:
    """The splits train, restval, val and test of Karpathy & Fei-Fei 2015. Images of others are added to `skipped`."""
    found = []
    for image in content["images"]:
        name = _file_name(image["filename"])
        if folder := image.get("filepath"):
            name = f"{_file_name(folder)}/{name}"
        captions = caption_list([sentence["raw"] for sentence in image["sentences"]])
        try:
            found.append(Annotation(name, captions, _split(image["split"])))
        except ValueError as error:
            skipped.append(f"{name} ({error})")
    return found


def _file_name(value: Any) -> str:
    """The name of an image's file. Raises TypeError for anything else."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError(f"the name of an image's file must be a text, not {value!r:.60}")
    return value


def _split(value: Any) -> str:
    """The split that a list names, in capitals or not. Raises ValueError for a name that is none."""
    if not isinstance(value, str) or value.lower() not in SPLIT_NAMES:
        raise ValueError(f"the split {value!r:.60}, which is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[value.lower()]


# ---- rows -------------------------------------------------------------------------------------------------------


def _list_in_a_cell(text: str) -> Any:
    """The list in a table's cell, as JSON or as Python writes it; any other text as it is."""
    if text.startswith("[") and text.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a text is no Python code, whose escapes could be invalid
                return list(parse(text))
    return text


def _rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], skipped: list[str], *, listed: Callable[[str], Any] | None = None
) -> list[Annotation]:
    """Annotations of rows that have a place, such as "line 7". listed: reads a list of captions in a text."""
    found: dict[tuple[str, tuple[str, ...], str], Annotation] = {}
    for place, row in rows:
        try:
            annotation = _row(row, listed)
        except (TypeError, ValueError) as error:
            skipped.append(f"{place} ({error})")
            continue
        key = (annotation.name, annotation.captions, str(row.get(NUMBER)))
        if key in found:
            skipped.append(f"{place} ({annotation.name} with the same caption again)")
        found.setdefault(key, annotation)
    return list(found.values())


def _row(row: Mapping[str, Any], listed: Callable[[str], Any] | None) -> Annotation:
    """The image and captions of a row. Raises TypeError or ValueError, naming its keys, if it has none."""
    image = next((row[key] for key in _IMAGE_KEYS if isinstance(row.get(key), str) and row[key]), None)
    keys = [key for key in _CAPTION_KEYS if row.get(key)][:1] or [key for key in row if _NUMBERED_KEY.fullmatch(key)]
    if image is None or "\0" in image:
        raise ValueError(f"no image: it has {', '.join(row) or 'no keys'}")
    if not keys:
        raise ValueError(f"no caption: it has {', '.join(row)}")
    captions: list[str] = []
    for key in keys:
        value = listed(row[key]) if listed and isinstance(row[key], str) else row[key]
        captions += caption_list(value)
    split = row.get("split")
    return Annotation(image, tuple(captions), None if split is None else _split(split))


def with_split(annotations: Iterable[Annotation], wanted: str | None, title: str) -> list[Annotation]:
    """One annotation for each image, with all its captions; the given split is "train", "validation" or None.

    wanted: the split that validates, val or test (None: test only where there is no val); images of the other are not
    used. Raises UserError for an image in two splits, images without a split among others, or a missing split.
    """
    merged: dict[str, Annotation] = {}
    for name, captions, split in annotations:
        place = os.path.normpath(name)
        earlier = merged.get(place, Annotation(name, (), split))
        if earlier.split != split:
            raise UserError(f"{title} lists {name} in the split {earlier.split} and in {split}: keep it in one.")
        merged[place] = Annotation(earlier.name, earlier.captions + captions, split)
    if odd := next((each for each in merged.values() if not is_utf8("".join((each.name, *each.captions)))), None):
        raise UserError(f"{title} has half a character (a lone surrogate) in the entry of {odd.name!a}: fix it.")
    parts = {each.split for each in merged.values()}
    if parts <= {None} or parts == {"train"}:
        return [each._replace(split=None) for each in merged.values()]
    validates = SPLIT_NAMES[wanted or ("val" if "validation" in parts else "test")]
    if None in parts or not {"train", validates} <= parts:
        found = ", ".join(sorted(part or "images without a split" for part in parts))
        raise UserError(
            f"{title} has a split of its own, and needs images that train and images that validate "
            f"({wanted or 'val or test'}, data.validation_split); it has {found}."
        )
    used = {"train": "train", validates: "validation"}
    return [each._replace(split=used[each.split]) for each in merged.values() if each.split in used]
