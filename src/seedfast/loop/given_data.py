"""Data that a caller gives as Python values: written once into the run folder, so that the run can be continued."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seedfast.errors import UserError
from seedfast.launcher import is_first
from seedfast.sealed_folder import new_folder

_FOLDER, _DOCUMENTS = "data", "documents.jsonl"


def given_path(run_folder: Path) -> Path | None:
    """The path for `data.path` of the data that were written into a run folder; None where there are none."""
    folder = run_folder / _FOLDER
    documents = folder / _DOCUMENTS
    return documents if documents.is_file() else folder if folder.is_dir() else None


@dataclass(frozen=True)
class Given:
    """Checked values. files: the content of each file by its name. documents: whether they are texts or rows."""

    files: Mapping[str, bytes]
    documents: bool

    @staticmethod
    def of(data: Iterable[Any]) -> "Given":
        """Texts, rows, images or (image, label) pairs.

        Raises UserError for an empty sequence, or values of another or of several kinds.
        """
        if isinstance(data, str | bytes | Path | Mapping) or not isinstance(data, Iterable):
            raise UserError(
                f"data is {data!r:.40}, and not a list of texts, rows, images or pairs: name a file or folder in "
                "data.path."
            )
        values = list(data)
        kinds = {_kind(value) for value in values}
        if len(kinds) != 1 or not kinds <= {"texts", "rows", "images", "pairs"}:
            found = " and ".join(sorted(kinds)) or "nothing"
            raise UserError(f"data must be texts, rows, images or (image, label) pairs, all of one kind, not {found}.")
        kind = kinds.pop()
        if kind in ("texts", "rows"):
            rows = [{"text": text} for text in values] if kind == "texts" else values
            return Given({_DOCUMENTS: _lines(rows)}, documents=True)
        return Given(_images(values if kind == "pairs" else [(image, "image") for image in values]), documents=False)

    def write(self, run_folder: Path) -> Path:
        """Write them into a run folder; returns the path for `data.path`. Raises UserError if it has other data."""
        folder = run_folder / _FOLDER
        if is_first():
            _write(self.files, folder)
        return folder / _DOCUMENTS if self.documents else folder


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "texts"
    if isinstance(value, Mapping):
        return "rows"
    if isinstance(value, Image.Image | np.ndarray):
        return "images"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Image.Image | np.ndarray):
        return "pairs"
    return type(value).__name__


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode()
    except TypeError as error:
        raise UserError(f"A row of data cannot be written as JSON: {error}.") from error


def _images(pairs: Sequence[tuple[Any, Any]]) -> dict[str, bytes]:
    files = {}
    for number, (image, label) in enumerate(pairs):
        name = str(label)
        if label is None or not name or name.startswith(".") or "/" in name or "\0" in name:
            raise UserError(f"The label {label!r} cannot be the name of a folder: choose another.")
        files[f"{name}/{number:08d}.png"] = _png(image, number)
    return files


def _png(image: Any, number: int) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise UserError(
                f"Image {number} is an array of {image.dtype} {list(image.shape)}: give uint8 [H, W] or [H, W, 3]."
            )
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """Make the folder in one instant; one that exists must hold the same files."""
    if folder.is_dir():
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        if found != files:
            raise UserError(
                f"{folder} holds other data than is given now: use another run folder, or remove it if nothing has "
                "been trained."
            )
        return
    with new_folder(folder) as attempt:
        for name, content in files.items():
            path = attempt / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
