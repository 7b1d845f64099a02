"""Flickr30k: a local archive becomes a folder with captions.json and images/."""

import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from seedfast.data.caption.annotations import read_json, read_table
from seedfast.errors import UserError
from seedfast.files import commit, to_json


def unpack(archive: Path, folder: Path) -> tuple[Path, int]:
    """Write `folder`/captions.json and `folder`/images/ from a Flickr30k archive (zip or tar) or its unpacked folder.

    Returns the JSON file and the number of images with captions. Raises UserError if images or table are missing.
    """
    if (folder / "captions.json").exists():
        raise UserError(f"{folder} holds captions.json already; name a new folder.")
    if not archive.exists():
        raise UserError(f"{archive} is neither an archive nor a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-") as temporary:
        content = archive if archive.is_dir() else _unpacked(archive, Path(temporary))
        files = sorted(path for path in content.rglob("*") if path.is_file() and "__MACOSX" not in path.parts)
        endings = Image.registered_extensions()
        images = {path.name: path for path in files if path.suffix.lower() in endings}
        tables = [path for path in files if path.suffix.lower() in (".csv", ".token", ".txt", ".json")]
        captions = _captions(tables, images)
        if not captions:
            raise UserError(
                f"{archive} holds {len(images)} images and {len(tables)} tables, but no table with their captions."
            )
        (folder / "images").mkdir(exist_ok=True)
        for name in captions:
            shutil.copyfile(images[name], folder / "images" / name)
        commit(folder / "captions.json", to_json(captions))  # last, so that it exists only with all images
    return folder / "captions.json", len(captions)


def _unpacked(archive: Path, folder: Path) -> Path:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} is not a zip or tar archive ({error}).") from None
    return folder


def _captions(tables: list[Path], images: dict[str, Path]) -> dict[str, list[str]]:
    """The captions in the largest table that lists any of these images."""
    for table in sorted(tables, key=lambda path: -path.stat().st_size):
        found: dict[str, list[str]] = {}
        for name, captions, _ in read_json(table, "val") if table.suffix == ".json" else read_table(table, []):
            if Path(name).name in images:
                found.setdefault(Path(name).name, []).extend(captions)
        if found:
            return found
    return {}
