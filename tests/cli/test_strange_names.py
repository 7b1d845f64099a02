"""Names and texts of strangers cannot send commands to a terminal."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tests.helpers.run_folders import make, step

from seedfast.console import printable
from seedfast.families.text.request import TextSamples

NAME = "esc\x1b[31mred\x07\udcff"
LINES = "a\r\nb\tc"
SHOWN = "esc\ufffd[31mred\ufffd\ufffd"


def on_a_terminal(*words: str, cwd: Path) -> str:
    """What a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "seedfast", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment) as process:
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 1 << 16):
                output += piece
        except OSError:  # the terminal has no writer any more
            pass
        finally:
            os.close(ours)
    assert process.returncode in (0, 1, 2)
    return output.decode()


@pytest.mark.parametrize("command", ["runs", "clean", "report", "sample"])
def test_the_name_of_a_run_moves_no_cursor(command: str, tmp_path: Path) -> None:
    run = tmp_path / NAME
    make(run, [step(1, 4.0)])
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)  # which is none, so that there is something to say
    output = on_a_terminal(command, "." if command in ("runs", "clean") else NAME, cwd=tmp_path)
    assert "\x1b" not in output
    assert "\x07" not in output
    assert SHOWN in output.replace("\r\n", ""), output


def test_lines_of_windows_stay_lines() -> None:
    assert printable(LINES) == "a\nb\tc"


@pytest.mark.parametrize("command", ["runs", "clean", "recipes", "journal"])
def test_a_closed_stdout_is_no_error(command: str, tmp_path: Path) -> None:
    make(tmp_path, [step(1, 4.0)])
    words = [command] if command == "recipes" else [command, "."]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "seedfast", *words]
    done = subprocess.run(closed, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_strange_column_of_a_journal_moves_no_cursor(tmp_path: Path) -> None:
    make(tmp_path, [step(1, 4.0) | {"\x1b[31mred": 1.0}])
    assert "\x1b" not in on_a_terminal("journal", ".", cwd=tmp_path)


@pytest.mark.parametrize("is_dumb", [False, True])
def test_a_text_moves_no_cursor(is_dumb: bool) -> None:
    text = "a\x1b[2Jb\x07"
    for terminal in (False, True):
        file = io.StringIO()
        environment = {"TERM": "dumb" if is_dumb else "xterm", "NO_COLOR": "1"}
        console = Console(file=file, force_terminal=terminal, width=80, _environ=environment)
        TextSamples(texts=[text], tokens=[[0]], fixed=[[False]], pieces=[[(text, False)]]).show(console)
        assert (text in file.getvalue()) != terminal
        assert (printable(text) in file.getvalue()) == terminal
