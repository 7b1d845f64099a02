"""Curves: they follow a journal that grows or is cut, and keep peaks when they are reduced."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import run_folders

from seedfast.run_folder.tail import Tail
from seedfast.studio.curves import Curves, bucketed, running_mean

WHOLE = {"points": 100, "smoothing": 0.0, "first": 0, "last": float("inf")}


def append(folder: Path, *entries: dict[str, object]) -> None:
    with (folder / "journal.jsonl").open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_only_what_was_appended_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folders.make(tmp_path / "a", [run_folders.step(n) for n in range(1, 501)])
    tail = Tail(folder)
    assert [entry["step"] for entry in tail.read()[1]] == list(range(1, 501))
    parsed: list[bytes] = []
    monkeypatch.setattr("seedfast.run_folder.tail._entry", lambda line: parsed.append(line) or {"step": 0})
    append(folder, run_folders.step(501))
    assert tail.read() == (False, [{"step": 0}])
    assert len(parsed) == 1
    assert tail.read() == (False, [])


def test_an_incomplete_line_waits(tmp_path: Path) -> None:
    folder = run_folders.make(tmp_path / "a", [run_folders.step(1)])
    tail = Tail(folder)
    tail.read()
    line = json.dumps(run_folders.step(2)) + "\n"
    with (folder / "journal.jsonl").open("a") as file:
        file.write(line[:20])
        file.flush()
        assert tail.read() == (False, [])
        file.write(line[20:])
    assert [entry["step"] for entry in tail.read()[1]] == [2]


@pytest.mark.parametrize("later", [0, 1, 30])
def test_a_resumed_run_begins_again_at_its_checkpoint(tmp_path: Path, later: int) -> None:
    """later: lines after the cut, fewer or more than before it."""
    folder = run_folders.make(tmp_path / "a", [run_folders.step(n, loss=1.0) for n in range(1, 11)])
    curves = Curves(folder)
    assert len(curves.curve("training/loss", **WHOLE)["step"]) == 10
    before = curves.refreshed()
    run_folders.make(folder, [run_folders.step(n, loss=1.0) for n in range(1, 6)])
    append(folder, *(run_folders.step(n, loss=2.0) for n in range(6, 6 + later)))
    found = curves.curve("training/loss", **WHOLE)
    assert found["step"] == list(range(1, 6 + later))
    assert found["smooth"] == [1.0] * 5 + [2.0] * later
    assert curves.refreshed() > before


def test_a_peak_of_one_step_survives_the_reduction(tmp_path: Path) -> None:
    losses = [3.0] * 10_000
    losses[7_123] = 40.0
    folder = run_folders.make(tmp_path / "a", [run_folders.step(n + 1, loss) for n, loss in enumerate(losses)])
    found = Curves(folder).curve("training/loss", **WHOLE)
    assert len(found["step"]) == 100
    assert max(found["high"]) == 40.0
    assert found["low"] == [3.0] * 100
    near = Curves(folder).curve("training/loss", points=100, smoothing=0.0, first=7_100, last=7_150)
    assert near["step"] == list(range(7_100, 7_151)), "a part that is enlarged has every step"


def test_the_running_mean_is_that_of_its_definition() -> None:
    values = np.random.default_rng(1).normal(size=200) + 1e6
    reach = 10
    for place, mean in enumerate(running_mean(values, 0.1)):
        before = min(reach, place)
        after = min(before, len(values) - 1 - place)
        assert mean == pytest.approx(values[place - before : place + after + 1].mean(), rel=1e-12)
    assert not np.allclose(running_mean(values, 0.1), running_mean(values, 0.2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_a_mean_depends_on_the_values_of_its_window_alone(share: float) -> None:
    values = np.linspace(5, 1, 10_000)
    spiked = values.copy()
    spiked[100] = 1e18
    plain, found = running_mean(values, share), running_mean(spiked, share)
    place, reach = np.arange(len(values)), round(share * len(values) / 2)
    is_outside = (place > 100 + reach) | (2 * place < 100)
    assert np.array_equal(found[is_outside], plain[is_outside])
    assert plain[-1] == pytest.approx(values[-1 - reach :].mean(), rel=1e-14)


def test_numbers_near_the_end_of_the_range_break_no_curve(tmp_path: Path) -> None:
    values = [3.0, 1e308, -1e308, 1e308, 1e308, 1e290, -1e290, 1e-300, 2.0]
    folder = run_folders.make(tmp_path / "a", [run_folders.step(n, loss) for n, loss in enumerate(values, 1)])
    append(folder, run_folders.step(10**300, 1.0))
    for smoothing in (0.0, 0.3, 1.0):
        found = Curves(folder).curve("training/loss", **{**WHOLE, "points": 2, "smoothing": smoothing})
        assert np.isfinite(list(found.values())).all()
        assert (max(found["high"]), min(found["low"])) == (1e290, -1e290), "what no sum can hold is left out"
    whole = Curves(folder).curve("training/loss", **WHOLE)
    assert whole["step"] == [1, 6, 7, 8, 9]
    assert whole["smooth"] == [3.0, 1e290, -1e290, 1e-300, 2.0]


def test_every_number_of_a_journal_is_a_curve(tmp_path: Path) -> None:
    entries = [run_folders.step(1), run_folders.validation(1, ema=run_folders.score(2.5)), run_folders.step(2, None)]
    curves = Curves(run_folders.make(tmp_path / "a", entries))
    assert {"training/loss", "training/lr/adamw", "training/time/seconds", "validation/ema/loss"} <= set(curves.names())
    assert curves.curve("training/loss", **WHOLE)["step"] == [1], "a loss that was not finite is left out"
    assert curves.curve("validation/ema/loss", **WHOLE)["smooth"] == [2.5]
    assert curves.curve("no such curve", **WHOLE)["step"] == []


def test_a_damaged_journal_shows_what_can_be_read(tmp_path: Path) -> None:
    folder = run_folders.make(tmp_path / "a", [run_folders.step(1)])
    hostile = [
        "not json",
        "[]",
        '{"step": "1"}',
        '{"step": 1e999, "loss": 1}',
        "[" * 5000,
        '{"step": 1, "loss": 1e999}',
    ]
    huge = f'{{"step": {"9" * 400}, "loss": 1}}'
    with (folder / "journal.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in [*hostile, huge])
    append(folder, run_folders.step(2))
    assert Curves(folder).curve("training/loss", **WHOLE)["step"] == [1, 2]


def test_buckets_hold_equally_many_values() -> None:
    steps = np.arange(10.0)
    found = bucketed(steps, steps, steps, 4)
    assert found["low"].tolist() == [0, 2, 5, 8]
    assert found["high"].tolist() == [1, 4, 7, 9]
    assert bucketed(steps[:0], steps[:0], steps[:0], 4)["step"].tolist() == []
