"""A progress bar appears on a terminal when work takes long; logs and short work have none."""

import re
import sys
from typing import Any

import pytest
from rich.live import Live

from seedfast import console
from seedfast.console import Bar, abbreviate, say, silenced, track, warn, watched


class Terminal:
    """A stream that is a terminal."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "delay", "appears"), [(True, 0, True), (True, 60, False), (False, 0, False)])
def test_a_bar_appears_only_on_a_terminal_and_after_a_delay(
    terminal: bool, delay: float, appears: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream: Any = Terminal()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_DELAY", delay)
    with Bar("Counting sheep", 10) as bar:
        bar.advance(5)
    assert ("Counting sheep" in stream.written) == appears
    assert bool(stream.written) == appears


def test_a_bar_is_drawn_below_a_line_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_DELAY", 0)
    with Live("the line", console=console.terminal(), auto_refresh=False), Bar("Counting sheep", 10) as bar:
        bar.advance(5)
        assert re.search(r"the line\n.*Counting sheep", stream.written)


def test_silence_leaves_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with silenced():
        say("a notice")
        warn("a warning")
    say("another")
    assert capsys.readouterr().err == "seedfast: WARNING: a warning\nanother\n"


def test_a_message_is_printed_verbatim_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]" + "long " * 60 + "[/bold] :smile:")
    assert capsys.readouterr() == ("", "[bold]" + "long " * 60 + "[/bold] :smile:\n")


def test_long_lists_are_abbreviated() -> None:
    assert abbreviate(["a", "b"], 2) == "a, b"
    assert abbreviate("abcde", 2) == "a, b, and 3 more"


def test_of_several_processes_one_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say("a notice")
    assert capsys.readouterr().err == "a notice\n"


def test_whoever_watches_sees_every_bar_advance_and_can_end_the_work() -> None:
    seen: list[float] = []

    def by(done: float) -> None:
        seen.append(done)
        if done == 0.75:
            raise KeyboardInterrupt

    with watched(seen.append):
        for _ in track("Counting sheep", range(2), 2):
            pass
    assert seen == [0.5, 1.0]
    with pytest.raises(KeyboardInterrupt), watched(by):
        list(track("Counting sheep", range(4), 4))
    with Bar("Counting sheep", 4) as bar:
        bar.advance(4)
    assert seen[2:] == [0.25, 0.5, 0.75]
