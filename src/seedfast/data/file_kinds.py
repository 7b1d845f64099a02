"""What a file is by its first bytes, where it is neither text nor data that is read: archives, documents, pictures."""

from pathlib import Path
from typing import NamedTuple

from seedfast.errors import UserError

ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".rar")
"""Endings of compressed files and archives."""

_UNPACK = "unpack it, and name the folder or the file that it holds"
_CONVERT = "save it as plain text in UTF-8, or a table as CSV"
_SIGNATURES = (
    (0, b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (0, b"BZh", "compressed (bzip2)", _UNPACK),
    (0, b"\xfd7zXZ", "compressed (xz)", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed (Zstandard)", _UNPACK),
    (30, b"[Content_Types].xml", "a document of Word, Excel or PowerPoint", _CONVERT),
    (30, b"mimetype", "a document of LibreOffice or an e-book", _CONVERT),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"%PDF", "a PDF document", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0", "a document of an old Microsoft Office", _CONVERT),
    (0, b"{\\rtf", "a document in RTF", _CONVERT),
    (0, b"\x89PNG", "a picture (PNG)", "name a folder of pictures to a recipe for images"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "name a folder of pictures to a recipe for images"),
    (0, b"GIF8", "a picture (GIF)", "name a folder of pictures to a recipe for images"),
    (0, b"SQLite format 3", "an SQLite database", "write its rows as JSON lines or CSV"),
    (0, b"\x89HDF", "an HDF5 file", "write its rows as JSON lines or Parquet"),
    (0, b"ARROW1", "an Arrow file", "name the folder of its data set as hf:FOLDER, or write it as Parquet"),
    (0, b"\x93NUMPY", "an array of NumPy", "give the texts that it was made of"),
)


class FileKind(NamedTuple):
    """What a file is, as the end of "It is …", and what to do with it, as an imperative."""

    name: str
    remedy: str


def file_kind(path: Path) -> FileKind | None:
    """What a file is that holds no text and no rows; None where its first bytes do not tell. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(512)
    for start, signature, name, remedy in _SIGNATURES:
        if head.startswith(signature, start):
            return FileKind(name, remedy)
    if path.suffix.lower() in ARCHIVES:
        return FileKind(f"an archive by its name ({path.suffix}), and damaged", "download it again, and unpack it")
    return None


def refuse_other_kinds(path: Path) -> None:
    """Raise UserError for a file that is an archive, a document or a picture, saying what it is and what to do."""
    if kind := file_kind(path):
        raise UserError(f"The file {path} is {kind.name}: {kind.remedy}.")
