"""The progress line fits the terminal, what matters first; a log has a clock; the run folder has `train.log`."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from tests.helpers.runs import small_run

from seedfast.loop import progress
from seedfast.loop.open import open_session
from seedfast.loop.progress import LOG, Line, fit
from seedfast.loop.train import run_training

PARTS = [
    "step 1260/1500", "loss 4.025", "7.79k tokens/s", "1:06 left", "epoch 0.80", "bits per byte 1.954",
    "waiting for data 3%", "memory 612 MB", "lr muon 3.0e-03", "lr adamw 2.0e-03",
]  # fmt: skip
"""What a line can show, in order of importance."""
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("width", [56, 60, 80, 110, 200])
def test_step_loss_speed_and_time_left_are_shown_at_every_width(width: int) -> None:
    line = fit(PARTS, width, 0.5)
    assert len(line) <= width
    assert all(part in line for part in PARTS[:4])


def test_a_wide_terminal_shows_everything_and_a_bar() -> None:
    line = fit(PARTS, 200, 0.5)
    assert all(part in line for part in PARTS)
    assert line.startswith("━" * 12 + "─" * 12 + " step")


def test_the_least_important_part_is_left_out_first() -> None:
    assert PARTS[-1] not in fit(PARTS, 110, 0.5)
    assert PARTS[4] in fit(PARTS, 80, 0.5)
    assert PARTS[4] not in fit(PARTS, 60, 0.5)


def test_nothing_less_important_takes_the_place_of_what_is_too_long() -> None:
    assert fit(["step 1/2", "x" * 80, "loss 1.0"], 40, 0.5).endswith("step 1/2")


def test_the_share_of_the_peak_is_shown_in_80_columns() -> None:
    assert "MFU 41%  epoch 0.80" in fit([*PARTS[:4], "MFU 41%", *PARTS[4:]], 80, 0.5)


def test_the_readme_shows_the_line_of_80_columns() -> None:
    assert fit(PARTS, 80, 1260 / 1500) in README.read_text().splitlines()


@pytest.fixture(scope="module")
def trained(story: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder, and what its training printed where there is no terminal."""
    folder, screen = tmp_path_factory.mktemp("run") / "run", io.StringIO()
    with open_session(small_run("text-masked", story), folder) as session:
        with Line(Console(file=screen), folder / LOG) as line:
            line.say("a beginning")
            run_training(session, line)
    return folder, screen.getvalue()


def test_a_log_has_plain_lines_with_a_clock(trained: tuple[Path, str]) -> None:
    _, printed = trained
    first, *rest, last = printed.splitlines()
    assert first == "a beginning"
    assert all(re.match(r"\d\d:\d\d:\d\d  step \d+", line) for line in rest)
    assert "\x1b" not in printed
    assert any(" left" in line for line in rest)
    assert "validation" in rest[-1]
    assert re.match(r"\d\d:\d\d:\d\d  trained for .* tokens/s  waiting for data \d+%  saving .* s  memory ", last)


def test_the_run_folder_has_every_line_with_its_date(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    stored = (folder / LOG).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in stored)
    assert [line[21:] for line in stored[1:]] == [line[10:] for line in printed.splitlines()[1:]]


def test_a_log_gets_a_line_seldom(trained: tuple[Path, str]) -> None:
    steps = [line for line in trained[1].splitlines() if " left" in line]
    assert len(steps) == 2, "the first and the last of 20 steps that take less than ten seconds"


def test_a_quiet_console_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    screen = io.StringIO()
    Line(Console(file=screen, quiet=True), tmp_path / LOG).say("a line")
    assert screen.getvalue() == ""
    assert (tmp_path / LOG).read_text().endswith("  a line\n")


@pytest.mark.parametrize(
    ("number", "short"),
    [(0.5, "0.50"), (9.999, "10.0"), (99.96, "100"), (999.9, "1.00k"), (12_345, "12.3k"), (4.56e6, "4.56M")],
)  # fmt: skip
def test_a_rate_has_three_digits(number: float, short: str) -> None:
    assert progress.short(number) == short
