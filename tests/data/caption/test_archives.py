"""Archives: whole and in parts, within bounds; what cannot be unpacked is a sentence."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from seedfast.data.caption import archives
from seedfast.errors import UserError

CONTENT = {f"folder/{name}.bin": os.urandom(3000) for name in "abcdef"}


def packed(compression: int = zipfile.ZIP_DEFLATED, content: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in (CONTENT if content is None else content).items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def unpacked(archive: Path) -> dict[str, bytes]:
    folder = archive.parent / "unpacked"
    folder.mkdir()
    budget = archives.Budget(sum(part.stat().st_size for part in archives.parts(archive)))
    archives.unpack(archive, folder, budget)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_parts(data: bytes, folder: Path, names: list[str]) -> list[Path]:
    size = -(-len(data) // len(names))
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.write_bytes(data[number * size : (number + 1) * size])
    return paths


def volumes(folder: Path) -> list[Path]:
    """A zip in volumes, a.z01 and a.zip, as Info-ZIP's `zip -s` writes it: places count from the volume's start."""
    whole = packed()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        listed = archive.start_dir
    cut = starts[3]
    first, second = b"PK\7\10" + whole[:cut], bytearray(whole[cut:])
    place = listed - cut
    for start in starts:
        volume, offset = (0, start + 4) if start < cut else (1, start - cut)
        struct.pack_into("<H", second, place + 34, volume)
        struct.pack_into("<I", second, place + 42, offset)
        place += 46 + sum(struct.unpack_from("<3H", second, place + 28))
    struct.pack_into("<HH", second, place + 4, 1, 1)
    struct.pack_into("<I", second, place + 16, listed - cut)
    (folder / "a.z01").write_bytes(first)
    (folder / "a.zip").write_bytes(bytes(second))
    return [folder / "a.z01", folder / "a.zip"]


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_a_whole_archive(mode: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(packed() if mode == "zip" else tarred(mode))
    assert unpacked(tmp_path / "archive") == CONTENT


@pytest.mark.parametrize(
    "names",
    [
        ["a.zip.001", "a.zip.002", "a.zip.003"],
        ["a_part00", "a_part01", "a_part02"],
        ["a.tar.gz.aa", "a.tar.gz.ab", "a.tar.gz.ac"],
    ],
)
def test_an_archive_in_parts_is_named_by_any_of_them(names: list[str], tmp_path: Path) -> None:
    paths = in_parts(packed(), tmp_path, names)
    assert all(archives.parts(path) == paths for path in paths)
    assert [archives.is_archive(path) for path in paths] == [True, False, False], "once, by its first part"
    assert unpacked(paths[1]) == CONTENT


def test_the_volumes_of_a_zip(tmp_path: Path) -> None:
    paths = volumes(tmp_path)
    assert all(archives.parts(path) == paths for path in paths)
    assert [archives.is_archive(path) for path in paths] == [True, False]
    assert unpacked(paths[1]) == CONTENT


def test_missing_parts_are_named(tmp_path: Path) -> None:
    _, second, third = in_parts(packed(), tmp_path, ["a.zip.001", "a.zip.002", "a.zip.003"])
    second.unlink()
    with pytest.raises(UserError, match=r"Part 2 .* is missing: there are a\.zip\.001, a\.zip\.003"):
        unpacked(third)
    z01, last = volumes(tmp_path)
    last.unlink()
    with pytest.raises(UserError, match=r"The last part .*a\.zip, is missing"):
        archives.parts(z01)


def encrypted() -> bytes:
    data = bytearray(packed())
    for place in [place for place in range(len(data) - 4) if data[place : place + 4] == b"PK\1\2"]:
        data[place + 8] |= 1
    return bytes(data)


def deflate64() -> bytes:
    data = bytearray(packed())
    for place in [place for place in range(len(data) - 4) if data[place : place + 4] == b"PK\1\2"]:
        data[place + 10] = 9
    return bytes(data)


def damaged() -> bytes:
    data = bytearray(packed(zipfile.ZIP_STORED))
    data[100] ^= 255
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encrypted(), "is encrypted: unpack it with another program"),
        (deflate64(), "compressed by Deflate64"),
        (packed()[:-500], "is cut off"),
        (packed()[: len(packed()) // 2], "is cut off"),
        (tarred("w")[:9000], "is cut off"),
        (tarred("w:gz")[:9000], "cut off"),
        (tarred("w:xz")[:9000], "cut off"),
        (damaged(), "damaged or cut off"),
        (b"", "not a zip or tar archive"),
        (b"Rar!\x1a\7\0 and more", "not a zip or tar archive"),
    ],
    ids=["encrypted", "Deflate64", "no end", "half", "tar", "gz", "xz", "a flipped byte", "empty", "rar"],
)
def test_what_cannot_be_unpacked_is_a_sentence(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=message):
        unpacked(tmp_path / "a.zip")


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_HARMLESS", 100_000)
    (tmp_path / "a.zip").write_bytes(packed(content={"a": bytes(400_000)}))
    with pytest.raises(UserError, match="as an archive bomb does"):
        unpacked(tmp_path / "a.zip")
    assert not any((tmp_path / "unpacked").iterdir())
    header = tarfile.TarInfo("huge")
    header.size = 1 << 40
    (tmp_path / "c.tar").write_bytes(header.tobuf() + bytes(1024))
    with pytest.raises(UserError, match="as an archive bomb does"):
        archives.unpack(tmp_path / "c.tar", tmp_path / "unpacked", archives.Budget(2000))


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(packed(content={"../outside.txt": b"x", "/absolute.txt": b"y"}))
    assert sorted(unpacked(tmp_path / "a.zip")) == ["absolute.txt", "outside.txt"]
    assert not (tmp_path / "outside.txt").exists()
    for name, kind, target in (
        ("link", tarfile.SYMTYPE, "../../outside"),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.LNKTYPE, "../outside"),
        ("../outside", tarfile.REGTYPE, ""),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        (tmp_path / "b.tar").write_bytes(member.tobuf() + bytes(1024))
        with pytest.raises(UserError, match="a file that leads out of the folder into which it is unpacked"):
            archives.unpack(tmp_path / "b.tar", tmp_path / "unpacked", archives.Budget(2000))
