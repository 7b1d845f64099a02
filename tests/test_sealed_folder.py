"""A sealed folder is whole or absent, and every kind of damage is named."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seedfast import sealed_folder
from seedfast.files import file_digest
from seedfast.sealed_folder import MANIFEST, Manifest, committing, faults, is_attempt, new_folder, verify


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
    assert [path.name for path in tmp_path.iterdir() if is_attempt(path)] == []


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


def test_a_killed_process_leaves_an_attempt_that_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    killed = subprocess.run([sys.executable, "-c", DIE, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    (left,) = sealed_folder.attempts(tmp_path, "one")
    assert is_attempt(left)
    assert is_attempt(left / "a.bin")
    assert not is_attempt(folder)
    assert sealed_folder.attempts(tmp_path, "two") == []
    left.rename(tmp_path / f"one.tmp-{os.getpid()}")  # process ids are reused
    assert verify(write(folder)) is None


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
