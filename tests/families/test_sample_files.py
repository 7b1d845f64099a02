"""Files of samples replace those of earlier samples, and no file of the user."""

import json
from pathlib import Path

import pytest

from seedfast.errors import UserError
from seedfast.families import sample_files

FIRST = {"grid.png": b"one", "sample_0001_cat.png": b"cat"}
SECOND = {"grid.png": b"two", "grid.txt": b"dog"}


def write(folder: Path, contents: dict[str, bytes], *, replace: bool = False) -> list[str]:
    return [path.name for path in sample_files.write(folder, contents, replace=replace)]


def present(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != sample_files.RECORD}


def test_files_of_earlier_samples_are_replaced(tmp_path: Path) -> None:
    assert write(tmp_path, FIRST) == list(FIRST)
    assert write(tmp_path, SECOND) == list(SECOND)
    assert present(tmp_path) == SECOND


def test_files_of_the_user_stay_whatever_their_names(tmp_path: Path) -> None:
    mine = {"sample_0001_holiday.png": b"mine", "strip.png": b"mine", "notes.txt": b"mine"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    write(tmp_path, FIRST)
    write(tmp_path, SECOND)
    assert present(tmp_path) == mine | SECOND


def test_a_file_that_was_changed_after_sampling_is_the_user_s(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    (tmp_path / "sample_0001_cat.png").write_bytes(b"retouched")
    write(tmp_path, SECOND)
    assert present(tmp_path) == SECOND | {"sample_0001_cat.png": b"retouched"}


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_would_be_replaced_is_named_before_anything_changes(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "kept").write_bytes(b"two")
    match kind:
        case "file":
            (folder / "grid.png").write_bytes(b"mine")
        case "link":
            (folder / "grid.png").symlink_to(tmp_path / "kept")
        case "folder":
            (folder / "grid.png").mkdir()
    with pytest.raises(UserError, match=r"holds grid\.png, which no samples wrote"):
        write(folder, SECOND)
    assert [path.name for path in folder.iterdir()] == ["grid.png"]


def test_a_run_s_own_folder_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"of an earlier version")
    write(tmp_path, SECOND, replace=True)
    assert present(tmp_path) == SECOND


def test_the_same_samples_may_be_written_again(tmp_path: Path) -> None:
    write(tmp_path, FIRST)
    (tmp_path / sample_files.RECORD).unlink()
    assert write(tmp_path, FIRST) == list(FIRST)


@pytest.mark.parametrize("record", ["{", "[]", "7", '{"../kept": "DIGEST"}', '{"grid.png": 7}'])
def test_a_record_that_somebody_wrote_removes_nothing_outside_the_folder(record: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "kept").write_bytes(b"kept")
    digest = json.loads(json.dumps(sample_files._digest(tmp_path / "kept")))
    (folder / sample_files.RECORD).write_text(record.replace("DIGEST", digest))
    write(folder, SECOND)
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert present(folder) == SECOND
