"""Flickr30k from an archive at hand: its pictures and its table become what `captioned` reads."""

import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

from seedfast.data.caption.sources import read_json, read_table
from seedfast.errors import UserError
from seedfast.files import commit, to_json


def unpack(archive: Path, folder: Path) -> tuple[Path, int]:
    """Make `folder`/captions.json and `folder`/images/ of a Flickr30k archive (zip or tar) or folder at hand.

    Returns the JSON file and how many images have captions. Raises UserError if pictures or table are not in it.
    """
    if (folder / "captions.json").exists():
        raise UserError(f"{folder} holds captions.json already; name a new folder.")
    if not archive.exists():
        raise UserError(f"{archive} is neither an archive nor a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-") as temporary:
        inside = archive if archive.is_dir() else _unpacked(archive, Path(temporary))
        files = sorted(path for path in inside.rglob("*") if path.is_file() and "__MACOSX" not in path.parts)
        endings = Image.registered_extensions()
        pictures = {path.name: path for path in files if path.suffix.lower() in endings}
        tables = [path for path in files if path.suffix.lower() in (".csv", ".token", ".txt", ".json")]
        listed = _captions(tables, pictures)
        if not listed:
            raise UserError(
                f"{archive} holds {len(pictures)} pictures and {len(tables)} tables, but none with captions of them."
            )
        (folder / "images").mkdir(exist_ok=True)
        for name in listed:
            shutil.copyfile(pictures[name], folder / "images" / name)
        commit(folder / "captions.json", to_json(listed))  # last: where it is, everything is
    return folder / "captions.json", len(listed)


def _unpacked(archive: Path, folder: Path) -> Path:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as rolled:
                rolled.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive} is no zip or tar archive ({error}).") from None
    return folder


def _captions(tables: list[Path], pictures: dict[str, Path]) -> dict[str, list[str]]:
    """The captions of the largest table that has some of these pictures."""
    for table in sorted(tables, key=lambda path: -path.stat().st_size):
        listed: dict[str, list[str]] = {}
        for name, captions, _ in read_json(table, "val") if table.suffix == ".json" else read_table(table, []):
            if Path(name).name in pictures:
                listed.setdefault(Path(name).name, []).extend(captions)
        if listed:
            return listed
    return {}
