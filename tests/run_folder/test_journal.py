"""The journal: whole lines only, cut to a checkpoint on resume, readable while it is written, in old formats too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seedfast.errors import UserError
from seedfast.run_folder import journal
from seedfast.run_folder.journal import Journal
from seedfast.run_folder.table import read_table


def entry(step: int, **more: Any) -> Any:
    """A line of an optimizer step."""
    return {"step": step, "loss": 1.0 / step, "lr": {"adamw": 1e-3, "muon": 0.015}} | more


def test_a_rewind_cuts_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    with Journal(tmp_path) as written:
        for step in (1, 2, 3):
            written.record(entry(step))
            if step == 2:
                size = written.size
    with Journal(tmp_path) as resumed:
        resumed.rewind(2, size)
        resumed.record(entry(3, digest="other"))
    assert list(journal.read(tmp_path)) == [entry(1), entry(2), entry(3, digest="other")]


@pytest.mark.parametrize(("step", "change"), [(1, 0), (2, -1), (3, 0), (2, 1)])
def test_a_rewind_to_another_place_is_refused(step: int, change: int, tmp_path: Path) -> None:
    with Journal(tmp_path) as written:
        for each in (1, 2):
            written.record(entry(each))
        with pytest.raises(UserError, match="is not the journal of this run"):
            written.rewind(step, written.size + change)


def test_an_incomplete_last_line_is_skipped_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert list(journal.read(tmp_path)) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2, is not JSON"):
        list(journal.read(tmp_path))


def test_the_last_line_may_be_long(tmp_path: Path) -> None:
    """The validation of a mixture of a thousand sources has half a megabyte."""
    scores = {f"source-{number:056}": {"loss": 1 / 3, "standard_error": 1 / 7, "weight": 9.0} for number in range(1000)}
    validation = {"step": 1, "validation": {kind: {"loss": 1.0, "sources": scores} for kind in ("raw", "ema")}}
    with Journal(tmp_path) as written:
        written.record(entry(1))
        written.record(validation)  # type: ignore[arg-type]
        size = written.size
    with Journal(tmp_path) as resumed:
        resumed.rewind(1, size)
    assert journal.last(tmp_path) == validation


def test_an_event_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with Journal(tmp_path) as written:
        written.event("warning", reason="the disk is full")
        written.record(entry(1))
    assert list(journal.read(tmp_path)) == [entry(1)]


def test_following_a_journal_waits_for_whole_lines(tmp_path: Path) -> None:
    def written() -> Iterator[bool]:
        with (tmp_path / "journal.jsonl").open("ab", buffering=0) as file:
            for part in (b'{"step": 1}\n{"st', b'ep": 2}', b'\n{"step": 3}\n'):
                file.write(part)
                yield False
            file.write(b'{"step": 4}\n{"step"')
            yield True

    (tmp_path / "journal.jsonl").touch()
    writer = written()
    assert [entry["step"] for entry in journal.follow(tmp_path, lambda: next(writer))] == [1, 2, 3, 4]


def test_each_optimizer_has_a_curve_of_its_learning_rate() -> None:
    assert journal.scalars(entry(1)) == {
        "training/loss": 1.0, "training/lr/adamw": 1e-3, "training/lr/muon": 0.015,
    }  # fmt: skip
    assert journal.scalars(entry(1, lr=0.5))["training/lr"] == 0.5, "one rate in version 0.1"
    score = {"loss": 2.0, "standard_error": None, "diagnostics": {"accuracy": 0.5}}
    assert journal.scalars({"step": 1, "validation": {"ema": score}}) == {
        "validation/ema/loss": 2.0, "validation/ema/diagnostics/accuracy": 0.5,
    }  # fmt: skip


def test_samples_are_files_of_the_run_folder(tmp_path: Path) -> None:
    files = ["samples/step-1/grid.png", "samples/step-1/grid.txt"]
    line = {"step": 1, "samples": files, "decoding": "greedy", "time": {"seconds": 1.5}}
    assert journal.sample_files(tmp_path, line) == {
        "samples/grid.png": tmp_path / files[0],
        "samples/grid.txt": tmp_path / files[1],
    }, "each has a name of its own in trackers"
    assert journal.sample_files(tmp_path, entry(1)) == {}
    assert journal.scalars(line) == {}


def test_a_table_has_a_column_for_each_curve(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(entry(step)) + "\n" for step in (1, 2)))
    table = read_table(tmp_path)
    assert list(table) == ["step", "training/loss", "training/lr/adamw", "training/lr/muon"]
    assert table["training/loss"].tolist() == [1.0, 0.5]
