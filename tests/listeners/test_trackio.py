"""The copy of the journal for trackio, by a real background process, read back by trackio itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.outcome import outcome
from tests.helpers.runs import small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.listeners import base, tracker
from seedfast.loop.open import open_session
from seedfast.run_folder import journal


def logged(project: str, name: str) -> dict[int, dict[str, Any]]:
    """What trackio has of a run, by step."""
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[int, dict[str, Any]] = {}
    for row in SQLiteStorage.get_logs(project, name):
        values = found.setdefault(row["step"], {})
        assert not set(values) & (set(row) - {"step", "timestamp"}), "every number is there once"
        values |= {key: value for key, value in row.items() if key not in ("step", "timestamp")}
    return found


def test_each_line_of_the_journal_is_copied_once_also_after_a_resume(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio = pytest.importorskip("trackio", reason="trackio is not installed (pip install trackio)")
    storage = pytest.importorskip("trackio.utils")
    monkeypatch.setenv("TRACKIO_DIR", str(storage.TRACKIO_DIR))
    monkeypatch.setattr(tracker, "PATIENCE", 3600.0)
    project = f"test-{tmp_path.name}"
    run = small_run("image-diffusion", story, steps=10, save_every=4, eval_every=5, sample_every=5, trackio=project)
    with open_session(run, tmp_path / "run") as session:
        train_until(session, 7)
    train_in(tmp_path / "run", run)
    train_in(tmp_path / "alone", replace(run, trackio=None))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "alone"), "it changes no bit"
    (stored,) = trackio.Api().runs(project)
    assert stored.name == f"run-{(tmp_path / 'run/trackio.id').read_text()}"
    assert stored.config["seed"] == run.seed
    assert stored.config["model"]["width"] == 8
    expected: dict[int, dict[str, float]] = {}
    for entry in journal.read(tmp_path / "run"):
        if numbers := journal.scalars(entry):
            expected.setdefault(entry["step"], {}).update(numbers)
    found = logged(project, stored.name)
    assert {step: {key: row[key] for key in expected[step]} for step, row in found.items()} == expected
    grid = found[10]["samples/grid.png"]
    assert grid["_type"] == "trackio.image"
    (copied,) = Path(storage.MEDIA_DIR).rglob(Path(grid["file_path"]).name)
    ours = Image.open(tmp_path / "run/samples/step-00000010/grid.png")
    assert Image.open(copied).size == ours.size
    trackio.delete_project(project, force=True)


def test_a_missing_package_is_an_error_before_the_first_step(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--trackio needs .*pip install 'seedfast\[trackio\]'"):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, trackio="project"))
    assert not (tmp_path / "run").exists()
