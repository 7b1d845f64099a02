"""The list of runs and their comparison in a real browser: clicks, keys, live runs, a phone, the dark."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import run_folders
from tests.helpers.browser import expect
from tests.helpers.studio import Running, studio_of

from seedfast.run_folder.lock import locked

HOSTILE = '<img src=x onerror="window.hacked=1">'
STEPS = 10_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two long runs, whose second has a hostile recipe and hostile samples."""
    root = tmp_path_factory.mktemp("runs")
    for name, clip in (("long", 1.0), ("other", 2.0)):
        entries = [run_folders.step(n, 3.0 + 1 / n) for n in range(1, STEPS + 1)]
        folder = run_folders.make(
            root / name, entries, steps=STEPS, recipe=HOSTILE if name == "other" else "text-masked"
        )
        with (folder / "run.yaml").open("a") as file:
            file.write(f"rate: {clip}\n{json.dumps(HOSTILE)}: {json.dumps(HOSTILE + name)}\n")
        place = folder / "samples/step-00010000"
        place.mkdir(parents=True)
        (place / "samples.txt").write_text(f"{HOSTILE} {name}")
    return root


@pytest.fixture(scope="module")
def studio(runs: Path) -> Iterator[Running]:
    with studio_of(runs) as running:
        yield running


def test_the_page_is_small(visit: Callable[..., Any], studio: Running) -> None:
    shown = visit(studio)
    shown.wait_for_selector("#runs tbody tr")
    sizes = shown.evaluate("performance.getEntriesByType('resource').map(each => each.decodedBodySize)")
    assert len(sizes) < 30
    assert sum(sizes) < 250_000


def test_runs_are_filtered_chosen_and_compared_by_clicks(visit: Callable[..., Any], studio: Running) -> None:
    shown = visit(studio)
    rows = shown.locator("#runs tbody tr")
    rows.first.wait_for()
    assert rows.count() == 2
    shown.fill("#filter", "text-masked")
    assert rows.count() == 1
    shown.fill("#filter", "")
    for box in shown.locator("#runs tbody input[type=checkbox]").all():
        box.check()
    assert shown.inner_text("#compare") == "Compare 2"
    shown.click("#compare")
    shown.wait_for_selector(".chart canvas")
    assert shown.locator(".legend li").all_inner_texts()[0].startswith("long")
    shown.wait_for_selector("#settings")
    assert "rate" in shown.inner_text("#settings")
    assert "steps" not in shown.inner_text("#settings")
    shown.check("#all-settings")
    assert "steps" in shown.inner_text("#settings")
    expect(shown.locator(".file pre").nth(1)).to_contain_text("other")


def test_text_of_a_run_folder_is_never_html(visit: Callable[..., Any], studio: Running, runs: Path) -> None:
    ids = ",".join(studio.id(runs / name) for name in ("long", "other"))
    shown = visit(studio)
    shown.wait_for_selector(f"text={HOSTILE}")
    shown.goto(f"{studio.url}#compare/{ids}")
    shown.wait_for_selector("#settings")
    expect(shown.locator(".file pre").nth(1)).to_contain_text("onerror")
    assert shown.evaluate("window.hacked") is None
    assert shown.locator("img[src=x]").count() == 0


def ink(shown: Any) -> int:
    """The number of pixels of the chart that have the colour of the first run's line or band."""
    return int(
        shown.locator(".chart canvas").evaluate(
            """each => { const { data } = each.getContext('2d').getImageData(0, 0, each.width, each.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4)
              count += data[i + 3] > 0 && data[i] < 20
                && Math.abs(data[i + 1] - 114) < 30 && Math.abs(data[i + 2] - 178) < 30;
            return count; }"""
        )
    )


def test_a_curve_is_chosen_smoothed_and_enlarged(visit: Callable[..., Any], studio: Running, runs: Path) -> None:
    shown = visit(studio, f"#compare/{studio.id(runs / 'long')}")
    shown.wait_for_selector(".chart canvas")
    expect(shown.locator("#last")).to_contain_text("3.0")
    assert ink(shown) > 1000, "the curve is drawn"
    with shown.expect_response(lambda answer: "name=training%2Fgradient_norm" in answer.url):
        shown.select_option("#curve", "training/gradient_norm")
    expect(shown.locator("#last")).to_contain_text("0.50000")
    with shown.expect_response(lambda answer: "smoothing=0.1&" in answer.url + "&"):
        shown.fill("#smoothing", "10")
    box = shown.locator(".chart .u-over").bounding_box()
    with shown.expect_response(lambda answer: "first=" in answer.url) as found:
        shown.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
        shown.mouse.down()
        shown.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 60, steps=4)
        shown.mouse.up()
    (curve,) = found.value.json()["curves"].values()
    assert 0.2 * STEPS < curve["step"][0] < 0.3 * STEPS
    assert 0.45 * STEPS < curve["step"][-1] < 0.55 * STEPS
    shown.click("#whole")
    shown.wait_for_selector("#whole", state="detached")


def test_curves_of_ten_thousand_steps_are_reduced_by_the_server(
    visit: Callable[..., Any], studio: Running, runs: Path
) -> None:
    ids = ",".join(studio.id(runs / name) for name in ("long", "other"))
    shown = visit(studio, f"#compare/{ids}")
    expect(shown.locator("#last")).to_contain_text("3.0")
    sizes = shown.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('curves')).map(e => e.decodedBodySize)"
    )
    assert max(sizes) < 150_000


def test_a_run_that_trains_is_followed(visit: Callable[..., Any], tmp_path: Path) -> None:
    folder = run_folders.make(tmp_path / "live", [run_folders.step(1, 9.0)], steps=100)
    with studio_of(tmp_path) as studio, locked(folder):
        shown = visit(studio, f"#compare/{studio.id(folder)}")
        expect(shown.locator("#last")).to_contain_text("9.0000")
        with (folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps(run_folders.step(2, 7.0)) + "\n")
        expect(shown.locator("#last")).to_contain_text("7.0000")
        expect(shown.locator(".legend")).to_contain_text("step 2")
        shown.keyboard.press("1")
        shown.wait_for_selector("#runs .running")
        run_folders.make(tmp_path / "new", [run_folders.step(1)])
        expect(shown.locator("#runs tbody tr")).to_have_count(2)


def test_the_age_of_a_run_grows_though_nothing_changes(visit: Callable[..., Any], tmp_path: Path) -> None:
    run_folders.make(tmp_path / "a", [run_folders.step(1)])
    with studio_of(tmp_path) as studio:
        shown = visit(studio)
        changed = shown.locator("#runs tbody .changed")
        changed.wait_for()
        before = changed.inner_text()
        expect(changed).not_to_have_text(before)


def test_keys_change_the_tab(visit: Callable[..., Any], studio: Running) -> None:
    shown = visit(studio)
    shown.wait_for_selector("#runs")
    shown.keyboard.press("2")
    shown.wait_for_selector(".chart")
    shown.keyboard.press("1")
    shown.click("#filter")
    shown.keyboard.type("2")
    assert shown.locator("#filter").input_value() == "2", "a digit that is typed into a field is a digit"


@pytest.mark.parametrize("tab", ["runs", "compare"])
def test_a_phone_scrolls_in_one_direction_only(visit: Callable[..., Any], studio: Running, tab: str) -> None:
    shown = visit(studio, f"#{tab}", viewport={"width": 360, "height": 640})
    shown.wait_for_selector("#runs tbody tr" if tab == "runs" else "#last")
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_run_is_a_card_on_a_phone_and_its_state_one_line(visit: Callable[..., Any], tmp_path: Path) -> None:
    run_folders.make(tmp_path / "fine", [run_folders.step(1)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.yaml").write_text("recipe: [oops\n")
    with studio_of(tmp_path) as studio:
        for width in (390, 800, 1280):
            shown = visit(studio, viewport={"width": width, "height": 800})
            expect(shown.locator("#runs tbody tr")).to_have_count(2)
            assert all(box.bounding_box()["height"] < 30 for box in shown.locator("#runs .state").all())
            if width == 390:
                inside = (
                    "document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth"
                )
                assert shown.evaluate(inside), "nothing is beyond the edge"
                assert shown.locator("#runs tbody tr").first.bounding_box()["height"] < 250
        assert "run.yaml cannot be read (while parsing" in shown.inner_text("#runs .warning")


def test_a_chosen_run_that_is_removed_is_named_as_gone(visit: Callable[..., Any], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        run_folders.make(runs / name, [run_folders.step(1, 9.0)])
    with studio_of(runs) as studio:
        shown = visit(studio, f"#compare/{studio.id(runs / 'a')},{studio.id(runs / 'b')}")
        expect(shown.locator(".legend li")).to_have_count(2)
        expect(shown.locator("main")).to_contain_text("No setting differs.")
        expect(shown.locator("main")).to_contain_text("No samples yet.")
        with shown.expect_response(re.compile(r"api/settings")):  # of the other run alone
            (runs / "b").rename(tmp_path / "b")
        expect(shown.locator("[role=status]")).to_have_text("A chosen run is no longer in these folders.")
        expect(shown.locator(".legend li")).to_have_count(1)
        expect(shown.locator("main")).to_contain_text("No setting differs.")
        expect(shown.locator("main")).to_contain_text("No samples yet.")
        (runs / "a").rename(tmp_path / "a")
        expect(shown.locator("main")).to_contain_text("There is no run to show.")


def test_the_page_is_dark_where_the_system_is(visit: Callable[..., Any], studio: Running) -> None:
    shown = visit(studio, color_scheme="dark")
    shown.wait_for_selector("#runs tbody tr")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 26, 32)"


def test_a_server_that_has_ended_is_told(visit: Callable[..., Any], runs: Path, browser: Any) -> None:
    context = browser.new_context()
    with studio_of(runs) as studio:
        shown = context.new_page()
        shown.goto(studio.url)
        shown.wait_for_selector("#runs tbody tr")
    shown.wait_for_selector("text=The studio does not answer", timeout=20_000)
    context.close()
