"""An evaluation that was interrupted continues with the metric that it was at, with the same numbers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.cli import Run
from tests.helpers.runs import small_run, train_in

from seedfast.evaluate import noted
from seedfast.evaluate.bracket import Bracket
from seedfast.evaluate.deployed import Deployed
from seedfast.evaluate.loss import Loss


@pytest.mark.parametrize("name", ["masked", "autoregressive"])
def test_an_evaluation_continues_after_ctrl_c(
    name: str, story: Path, tmp_path: Path, seedfast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_in(tmp_path / "run", small_run(f"text-{name}", story, steps=3, eval_every=0, save_every=3))
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "own.py"
    own.write_text("def last(model):\n    raise KeyboardInterrupt\n")
    flags = ("--windows", "4", "--orders", "4", "--steps", "8") if name == "masked" else ()
    metrics = ("loss", "bracket", "deployed") if name == "masked" else ("loss",)
    words = ("evaluate", tmp_path / "run", "--json", *flags, "--only", *metrics)
    whole = json.loads(seedfast(*words)[1])
    notes = tmp_path / "cache" / "measured"
    assert not list(notes.iterdir()), "nothing is kept of what is finished"
    status, _, said = seedfast(*words, f"{own}:last")
    assert status == 130
    assert "the same command continues" in said
    assert len(list(notes.iterdir())) == len(metrics)
    table = seedfast(*(word for word in words if word != "--json"))[1]
    with monkeypatch.context() as patch:
        seedfast(*words, f"{own}:last")
        for metric in (Loss, Bracket, Deployed):
            patch.setattr(metric, "__call__", lambda *_: pytest.fail("this was measured before"))
        own.write_text("def last(model):\n    return {'length': 3.5}\n")
        assert json.loads(seedfast(*words, f"{own}:last")[1]) == whole | {"last": {"length": 3.5}}
    assert not list(notes.iterdir())
    assert seedfast(*(word for word in words if word != "--json"))[1] == table


def without_rates(record: Any) -> Any:
    """The record without the speed of sampling."""
    if isinstance(record, dict):
        return {key: without_rates(value) for key, value in record.items() if key != "tokens_per_second"}
    return list(map(without_rates, record)) if isinstance(record, list) else record


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_a_frontier_continues_after_ctrl_c(
    command: str, story: Path, tmp_path: Path, seedfast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sampled is not sampled again, and its speed stays what it was."""
    for name in ("masked", "autoregressive"):
        train_in(tmp_path / name, small_run(f"text-{name}", story, steps=3, eval_every=0, save_every=3))
    judge = tmp_path / "autoregressive"
    more = (judge, "--only", "frontier") if command == "compare" else ()
    words = (command, tmp_path / "masked", *more, "--judge", judge, "--samples", "2", "--json")

    sampled: list[object] = []

    def counted(*request: Any, until: Iterator[int]) -> object:
        sampled.append(request)
        if next(until, None) is None:
            raise KeyboardInterrupt
        return real(*request)

    real = noted.timed
    records = {}
    for cache, parts in (("whole", [99]), ("parts", [2, 3, 99])):
        monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / cache))
        sampled.clear()
        for part in parts:
            until = iter(range(part))
            monkeypatch.setattr(noted, "timed", lambda *each, until=until: counted(*each, until=until))
            status, out, said = seedfast(*words)
            assert status == (0 if part == 99 else 130)
            assert ("the same command continues" in said) == (part != 99)
        records[cache] = without_rates(json.loads(out))
        assert len(sampled) == 10 + (len(parts) - 1), "two curves of five points, and those at which it was interrupted"
        assert len(list((tmp_path / cache / "measured").iterdir())) == (command == "compare"), "the frontier alone"
    assert records["parts"] == records["whole"]
