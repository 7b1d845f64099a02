"""The copy of the journal for Weights & Biases, in offline mode by a real background process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.outcome import outcome
from tests.helpers.runs import small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.listeners import base, tracker, wandb
from seedfast.loop.open import open_session
from seedfast.run_folder import journal


def sent(run_folder: Path) -> list[tuple[str, dict[str, Any], dict[int, dict[str, float]]]]:
    """For each session: id of the run, configuration and the numbers of each step, from the file that wandb wrote.

    The file is a LevelDB log: blocks of 32 kB, and before each part its checksum, length and kind.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    sessions = []
    for path in sorted((run_folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        content, place, record_bytes = path.read_bytes(), 7, b""
        name, config, steps = "", {}, dict[int, dict[str, float]]()
        while place + 7 <= len(content):
            if 0x8000 - place % 0x8000 < 7:  # the rest of a block is too short for a header
                place += 0x8000 - place % 0x8000
            size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
            record_bytes += content[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (2, 3):  # the first or a middle part
                continue
            record, record_bytes = Record.FromString(record_bytes), b""
            if record.HasField("run"):
                name = record.run.run_id
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                row = {item.key or "/".join(item.nested_key): item for item in record.history.item}
                values = {key: json.loads(item.value_json) for key, item in row.items() if item.value_json}
                steps.setdefault(record.history.step.num, {}).update(values)
        sessions.append((name, config, steps))
    return sessions


def test_each_line_of_the_journal_is_copied_also_after_a_resume(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracker, "PATIENCE", 3600.0)
    run = small_run("text-masked", story, steps=10, save_every=4, eval_every=5, sample_every=5, wandb="project")
    with open_session(run, tmp_path / "run") as session:
        train_until(session, 7)
    train_in(tmp_path / "run", run)
    train_in(tmp_path / "alone", replace(run, wandb=None))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "alone"), "it changes no bit"
    (name, _, first), (again, config, second) = sent(tmp_path / "run")
    assert name == again == (tmp_path / "run/wandb.id").read_text()
    assert config["seed"] == run.seed
    assert config["model"]["width"] == 16
    expected: dict[int, dict[str, float]] = {}
    for entry in journal.read(tmp_path / "run"):
        if numbers := journal.scalars(entry):
            expected.setdefault(entry["step"], {}).update(numbers)
    # Offline, wandb does not know what was sent before, so the second session sends all numbers again.
    for steps, last in ((first, 7), (second, 10)):
        assert {s: {k: row[k] for k in expected[s]} for s, row in steps.items()} == {
            s: expected[s] for s in range(1, last + 1)
        }
    assert any(key.startswith("samples/") for key in second[5])


def test_a_picture_and_a_text_of_one_name_are_both_sent(tmp_path: Path) -> None:
    Image.new("L", (5, 7)).save(tmp_path / "grid.png")
    (tmp_path / "grid.txt").write_text("2 × <cat>")
    found = wandb._samples(tmp_path, {"step": 3, "samples": ["grid.png", "grid.txt"]})
    assert {name: type(each).__name__ for name, each in found.items()} == {
        "samples/grid.png": "Image", "samples/grid.txt": "Html",
    }  # fmt: skip
    assert "2 × &lt;cat&gt;" in found["samples/grid.txt"].html


def test_a_missing_package_is_an_error_before_the_first_step(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'seedfast\["):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, wandb="project"))
    assert not (tmp_path / "run").exists()
