"""Listeners: each receives the events of the run, and one that fails stops neither the training nor the others."""

from typing import Any

import pytest

from seedfast.listeners.background import BackgroundProcess
from seedfast.listeners.base import Listener, Listeners


class Recorder(Listener):
    """Records its events; fails at each, if it has an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.events: list[Any] = []
        self._error = error

    def on_entry(self, entry: Any) -> None:
        self.events.append(entry)
        if self._error:
            raise self._error

    def on_best(self, step: int) -> None:
        self.events.append(step)

    def close(self, *, finished: bool) -> None:
        self.events.append(finished)
        if self._error:
            raise self._error


def test_a_listener_that_cannot_write_is_switched_off_with_a_warning() -> None:
    warnings: list[str] = []
    full, other = Recorder(OSError("no space left")), Recorder()
    listeners = Listeners([full, other], warnings.append)
    for step in range(3):
        listeners.on_entry({"step": step})  # type: ignore[typeddict-item]
    listeners.on_best(2)
    listeners.close(finished=True)
    assert full.events == [{"step": 0}]
    assert other.events == [{"step": 0}, {"step": 1}, {"step": 2}, 2, True]
    assert warnings == ["Recorder failed and is switched off (no space left); training continues"]


def test_each_listener_is_closed_although_waiting_for_another_is_interrupted() -> None:
    interrupted, other = Recorder(KeyboardInterrupt()), Recorder()
    listeners = Listeners([other, interrupted], [].append)
    with pytest.raises(KeyboardInterrupt):
        listeners.close(finished=False)
    assert interrupted.events == other.events == [False]


@pytest.mark.parametrize(
    ("code", "seconds", "failure"),
    [
        ("import sys; sys.stdin.read()", 60, None),
        ("import sys; sys.exit('seedfast: it broke.')", 60, "it broke"),
        ("import sys; sys.exit(3)", 60, "status 3"),
        ("import time; time.sleep(100)", 0.2, "it did not end within 0.2 s"),
    ],
)
def test_a_background_process_ends_with_its_input_or_has_a_reason(
    code: str, seconds: float, failure: str | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = BackgroundProcess("program")
    assert process.end(seconds) == failure
    assert not process.is_running
