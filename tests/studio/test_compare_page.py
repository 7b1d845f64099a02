"""The comparison of runs in a real browser: axes, legends, long names, runs that are damaged while they are shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import run_folders
from tests.helpers.browser import expect
from tests.helpers.studio import studio_of

from seedfast.run_folder.lock import locked

Visit = Callable[..., Any]

RECORD = """
    const draw = CanvasRenderingContext2D.prototype.fillText;
    window.labels = new Map();
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        if (this.textAlign === "right") window.labels.set(text, x - this.measureText(text).width);
        return draw.call(this, text, x, y);
    };
"""
"""Collects the labels of vertical axes, and where each begins."""


def labels_of(visit: Visit, root: Path, losses: list[float], expected: set[str], *, is_log: bool = False) -> Any:
    """The labels of the vertical axis that a run of these losses has, once the expected ones are drawn."""
    folder = run_folders.make(root / "a", [run_folders.step(n, loss) for n, loss in enumerate(losses, 1)])
    with studio_of(root) as studio:
        shown = visit(studio, viewport={"width": 900, "height": 700})
        shown.add_init_script(RECORD)
        shown.reload()
        shown.goto(f"{studio.url}#compare/{studio.id(folder)}")
        expect(shown.locator("#last")).not_to_contain_text("reading")
        if is_log:
            shown.check("#log")
        for _ in range(200):
            found = dict(shown.evaluate("[...window.labels]"))
            if expected <= found.keys():
                break
            shown.wait_for_timeout(50)
        return found


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([290e6, 293e6], {"2.9e8", "2.93e8"}),
        ([-293e6, -290e6], {"-2.93e8", "-2.9e8"}),
        ([293e6, 293e6 + 300], {"2.93e8", "2.930003e8"}),
        ([1e-9, 2e-9], {"1e-9", "2e-9"}),
        ([3.0, 3.001], {"3", "3.001"}),
        ([3.0, 40_000.0], {"0", "40,000"}),
        ([0.0, 1e18], {"0", "1e18"}),
        ([-3e38, 3e38], {"-3e38", "0", "3e38"}),
        ([-1e290, 1e290], {"-1e290", "0", "1e290"}),
    ],
)
def test_an_axis_shows_its_numbers_in_full(
    visit: Visit, tmp_path: Path, losses: list[float], expected: set[str]
) -> None:
    found = labels_of(visit, tmp_path, losses, expected)
    assert expected <= found.keys()
    assert all(begin >= 0 for begin in found.values()), "nothing is cut off"


def test_a_logarithmic_axis_has_labels_at_any_magnitude(visit: Visit, tmp_path: Path) -> None:
    expected = {"1e2", "1e38"}
    assert expected <= labels_of(visit, tmp_path, [3.0, 1e38], expected, is_log=True).keys()


def test_the_legend_shows_the_line_of_each_run(visit: Visit, tmp_path: Path) -> None:
    folders = [run_folders.make(tmp_path / f"run{n:02d}", [run_folders.step(1)]) for n in range(15)]
    with studio_of(tmp_path) as studio:
        shown = visit(studio, "#compare/" + ",".join(map(studio.id, folders)))
        expect(shown.locator(".legend .line line")).to_have_count(15)
        lines = shown.locator(".legend .line line").all()
        looks = [(line.get_attribute("stroke"), line.get_attribute("stroke-dasharray")) for line in lines]
        assert len(set(looks)) == 15
        assert looks[0][0] == looks[7][0]


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("tab", ["runs", "compare", "play"])
def test_a_long_name_is_shortened(visit: Visit, tmp_path: Path, tab: str, width: int) -> None:
    names = ["a" * 200, "b" * 200]
    folders = [run_folders.make(tmp_path / name, [run_folders.step(1)], steps=n + 1) for n, name in enumerate(names)]
    with studio_of(tmp_path) as studio:
        chosen = ",".join(map(studio.id, folders))
        shown = visit(studio, f"#{tab}/{chosen}", viewport={"width": width, "height": 700})
        shown.wait_for_selector({"runs": "#runs tbody tr", "compare": "#settings", "play": "[role=alert]"}[tab])
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        if tab == "compare":
            titles = [each.get_attribute("title") for each in shown.locator(".legend .name").all()]
            assert titles == names


def cut(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-20])


def folder_for(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()


@pytest.mark.parametrize(
    ("damage", "last", "legend"),
    [
        (cut, "8.0000", "step 2"),
        (lambda journal: journal.write_bytes(b"\x00\xff" * 500 + b"\n"), "no such curve", "step 0"),
        (lambda journal: journal.unlink(), "no such curve", "step 0"),
        (folder_for, "no such curve", "journal.jsonl is no regular file"),
    ],
)
def test_a_journal_that_is_damaged_meanwhile_leaves_the_other_run(
    visit: Visit, tmp_path: Path, damage: Callable[[Path], None], last: str, legend: str
) -> None:
    for name in "ab":
        run_folders.make(tmp_path / name, [run_folders.step(n, 10.0 - n) for n in (1, 2, 3)])
    with studio_of(tmp_path) as studio, locked(tmp_path / "b"):
        shown = visit(studio, "#compare/" + ",".join(studio.id(tmp_path / name) for name in "ab"))
        rows = shown.locator("#last tbody td.number")
        expect(rows).to_have_text(["7.0000", "7.0000"])
        damage(tmp_path / "a/journal.jsonl")
        expect(rows).to_have_text([last, "7.0000"])
        expect(shown.locator(".legend li").first).to_contain_text(legend)
        shown.keyboard.press("1")
        expect(shown.locator("#runs tbody tr")).to_have_count(2)


def test_a_damaged_run_leaves_the_settings_of_the_others(visit: Visit, tmp_path: Path) -> None:
    for n, name in enumerate("abc"):
        run_folders.make(tmp_path / name, [run_folders.step(1)], steps=n + 1)
    (tmp_path / "b/run.yaml").write_text("steps: [oops\n")
    with studio_of(tmp_path) as studio:
        shown = visit(studio, "#compare/" + ",".join(studio.id(tmp_path / name) for name in "abc"))
        expect(shown.locator("[role=alert]")).to_contain_text("b: run.yaml cannot be read (")
        expect(shown.locator("#settings tbody tr")).to_have_count(1)
        assert shown.locator("#settings tbody tr").inner_text().split() == ["steps", "1", "unknown", "3"]
