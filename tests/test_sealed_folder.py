"""A sealed folder is whole or absent, and every kind of damage is named."""

import hashlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.helpers.processes import python

from seedfast import files
from seedfast.files import UNFINISHED, file_digest, to_json
from seedfast.sealed_folder import MANIFEST, Manifest, committing, discard, faults, new_folder, sweep, verify


def write(folder: Path, content: bytes = b"abc") -> Path:
    """Commit a folder with two files, one of them nested, that depends on a file beside it."""
    (folder.parent / "shared.bin").write_bytes(b"shared")
    with committing(folder) as attempt:
        (attempt.folder / "a.bin").write_bytes(content)
        (attempt.folder / "inner").mkdir()
        (attempt.folder / "inner" / "b.txt").write_text("b")
        attempt.outside["shared.bin"] = file_digest(folder.parent / "shared.bin")
        attempt.entries["step"] = 3
    return folder


def test_a_committed_folder_verifies_and_its_manifest_lists_every_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    assert verify(folder) is None
    manifest = Manifest.read(folder)
    assert set(manifest.files) == {"a.bin", "inner/b.txt", "../shared.bin"}
    assert manifest.entries == {"step": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "shared.bin"], "nothing is left unfinished"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.bin", b"abd", "does not have the contents that were committed"),
        ("a.bin", b"ab", "has 2 bytes instead of 3"),
        ("a.bin", None, "is missing"),
        ("inner/b.txt", b"c", "does not have the contents"),
        ("../shared.bin", b"SHARED", "does not have the contents"),
        ("manifest.json", None, "is missing"),
        ("manifest.json", b"{", "cannot be read"),
        ("manifest.json", b"\xff", "cannot be read"),
        ("manifest.json", b"[]", "cannot be read"),
        ("manifest.json", b'{"files": {}}', "cannot be read"),
        ("manifest.json", b'{"files": {}, "seal": ""}', "does not have the contents that were committed"),
    ],
)
def test_the_first_fault_is_named(name: str, content: bytes | None, problem: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    victim = folder / name
    if content is None:
        victim.unlink()
    else:
        victim.write_bytes(content)
    fault = verify(folder)
    assert fault is not None
    assert fault.file.resolve() == victim.resolve()
    assert problem in fault.problem


def test_every_fault_is_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    (folder / "a.bin").unlink()
    (folder / "inner" / "b.txt").write_text("longer")
    assert [fault.file.name for fault in faults(folder)] == ["a.bin", "b.txt"]


def test_an_altered_entry_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | {"step": 4}))
    fault = verify(folder)
    assert fault is not None
    assert fault.file.name == MANIFEST


def test_a_folder_has_its_name_once_all_of_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file, each folder and each file beside it is synced before the rename, and the name after it."""
    folder, fsync, synced = tmp_path / "one", os.fsync, set[tuple[int, bool]]()

    def watched(descriptor: int) -> None:
        synced.add((os.fstat(descriptor).st_ino, folder.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with new_folder(folder) as attempt:
        (attempt / "inner").mkdir()
        for path in (attempt / "a.bin", attempt / "inner/b.bin", attempt.parent / "beside.bin"):
            path.write_bytes(b"abc")
    for path in (folder, *folder.rglob("*"), tmp_path / "beside.bin"):
        assert (path.stat().st_ino, False) in synced, path
    assert (tmp_path.stat().st_ino, True) in synced


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for commit in (committing, new_folder):
        with pytest.raises(OSError, match="No space"), commit(tmp_path / "one"):
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_files_is_never_replaced(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    with pytest.raises(OSError, match="not empty"):
        write(folder, b"other")
    assert verify(folder) is None
    assert (folder / "a.bin").read_bytes() == b"abc"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as attempt:
        (attempt / "a").write_text("a")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]


DIE = """
import os, signal, sys
from pathlib import Path
from seedfast import sealed_folder
with sealed_folder.committing(Path(sys.argv[1])) as attempt:
    (attempt.folder / "a.bin").write_bytes(b"abc")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_swept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    assert python(DIE, folder).finish().returncode == -signal.SIGKILL
    assert not folder.exists()
    (left,) = (tmp_path / UNFINISHED).iterdir()
    assert (left / "one" / "a.bin").exists()
    with committing(tmp_path / "two") as living:
        (living.folder / "a.bin").write_bytes(b"abc")
        for mine in ("notes.tmp-1", "one.tmp-99", f"{UNFINISHED}/mine"):
            (tmp_path / mine).mkdir()
            (tmp_path / mine / "notes").write_text("the user's")
        assert sweep(tmp_path) == []
        assert not left.exists()
        assert (living.folder / "a.bin").exists(), "its process lives"
    assert verify(tmp_path / "two") is None
    assert len(list(tmp_path.rglob("notes"))) == 3


def test_a_folder_that_cannot_be_removed_is_gone_by_its_name_and_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "one")

    def refuse(path: str, **_: object) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", refuse)
        with pytest.raises(PermissionError):
            discard(folder)
        assert not folder.exists()
        assert [type(error) for error in sweep(tmp_path)] == [PermissionError]
    assert sweep(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["shared.bin"]


def manifest_naming(folder: Path, name: str) -> None:
    """Seal a manifest whose one file has this name, as a stranger can."""
    content = {"files": {name: {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}}
    seal = hashlib.sha256(to_json(content).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content | {"seal": seal}))


@pytest.mark.parametrize(
    "name", ["../../secret", "/etc/passwd", "a/../../secret", "..", "", "../a/secret", "link", "pipe"]
)
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"abc")
    folder = tmp_path / "parent" / "one"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    manifest_naming(folder, name)
    fault = verify(folder)
    assert fault is not None
    assert "names a file that is not used" in fault.problem


@pytest.mark.parametrize("name", ["a.bin", "inner/a.bin", "../beside.bin", "link"])
def test_names_and_links_inside_are_used(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    (folder / "inner").mkdir(parents=True)
    for path in (folder / "a.bin", folder / "inner/a.bin", tmp_path / "beside.bin"):
        path.write_bytes(b"abc")
    (folder / "link").symlink_to("a.bin")
    manifest_naming(folder, name)
    assert verify(folder) is None


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"files": {"a": 3}, "seal": ""}', '{"files": {"a": ["x", 1]}, "seal": 1}']
)
def test_a_manifest_that_would_harm_is_a_fault(content: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    fault = verify(tmp_path)
    assert fault is not None
    assert "cannot be read" in fault.problem


def test_a_file_is_replaced_whole_by_processes_that_write_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    contents = [bytes([65 + number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: files.commit(path, content), contents * 4))
    assert path.read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["pointer.json"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"pointer.json{UNFINISHED}").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic link"):
        files.commit(tmp_path / "pointer.json", "new")
    assert (tmp_path / "mine").read_text() == "mine"


def test_folders_of_version_0_1_verify(tmp_path: Path) -> None:
    """Literal manifests: of a checkpoint, whose files have names, and of a cache, whose files have pairs."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "a.bin").write_bytes(b"abc")
    (tmp_path / "checkpoint" / MANIFEST).write_text(OLD_CHECKPOINT)
    assert verify(tmp_path / "checkpoint") is None
    assert Manifest.read(tmp_path / "checkpoint").entries == {"step": 7, "validation": None}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a.bin").write_bytes(b"abc")
    (tmp_path / "cache" / MANIFEST).write_text(OLD_CACHE)
    assert verify(tmp_path / "cache") is None
    assert Manifest.read(tmp_path / "cache").entries == {"facts": {"size": 3}}
    assert Manifest.read(tmp_path / "cache").files["a.bin"] == file_digest(tmp_path / "cache" / "a.bin")
    (tmp_path / "cache" / "a.bin").write_bytes(b"abd")
    assert verify(tmp_path / "cache") is not None


OLD_CHECKPOINT = """\
{
 "files": {
  "a.bin": {
   "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
   "size": 3
  }
 },
 "seal": "0d8e30a47c4326279428ea4b77fb20dfafbf7acff24dafca37c190608f8c2d75",
 "step": 7,
 "validation": null
}
"""
OLD_CACHE = """\
{
 "facts": {
  "size": 3
 },
 "files": {
  "a.bin": [
   3,
   "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  ]
 },
 "seal": "0afa43a4c95d4d12fb2909b8bdfa954bc8e59b2b8e3afaa0093bf21b378c54f7"
}
"""
