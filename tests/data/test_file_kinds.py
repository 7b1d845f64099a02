"""Files that are neither text nor rows are named as what they are, by every kind of data."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from seedfast.data.caption.config import CaptionData
from seedfast.data.dataset import DataConfig
from seedfast.data.file_kinds import file_kind
from seedfast.data.image.config import ImageData
from seedfast.data.text.config import TextData
from seedfast.errors import UserError


def packed(kind: str) -> bytes:
    made = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=made, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.jpg"))
    else:
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("a.jpg" if kind == "zip" else "[Content_Types].xml", "x" * 99)
    return made.getvalue()


@pytest.mark.parametrize("data", [TextData, ImageData, CaptionData])
@pytest.mark.parametrize(
    ("kind", "name"), [("tar", "a tar archive"), ("zip", "a zip archive"), ("docx", "a document of Word")]
)
def test_archives_and_documents_are_named(data: type[DataConfig], kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"some.{kind}"
    path.write_bytes(packed(kind))
    with pytest.raises(UserError, match=rf"The file .*some\.{kind} is {name}") as caught:
        data(path=str(path)).load()  # type: ignore[call-arg]
    assert "\n" not in str(caught.value)


def test_text_is_of_no_other_kind(tmp_path: Path) -> None:
    for content in (b"", b"text", b"PK is not always a zip", b"B", "éa".encode(), b"{}\n"):
        (tmp_path / "a.txt").write_bytes(content)
        assert file_kind(tmp_path / "a.txt") is None
