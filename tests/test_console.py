"""A person who waits sees a bar; a log and a quick preparation stay clean."""

import sys
from typing import Any

import pytest

from seedfast import console
from seedfast.console import Bar, listed, say


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "patience", "appears"), [(True, 0, True), (True, 60, False), (False, 0, False)])
def test_the_bar(terminal: bool, patience: float, appears: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = Terminal()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "_PATIENCE", patience)
    with Bar("Counting sheep", 10) as bar:
        bar.advance(5)
    assert ("Counting sheep" in stream.written) == appears
    assert bool(stream.written) == appears


def test_a_message_is_one_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]" + "long " * 60 + "[/bold] :smile:")
    assert capsys.readouterr() == ("", "[bold]" + "long " * 60 + "[/bold] :smile:\n")


def test_long_lists_are_shortened() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed("abcde", 2) == "a, b, and 3 more"
