"""The page of an animation in a real browser: clicks, keys, scrubbing, colours, dark mode, a phone's width."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.browser import chromium
from tests.report.test_animation import film

from seedfast.families.film import ImageFrame
from seedfast.report.animation.page import page

Open = Callable[..., Any]
FRAMES = ("........", "a..d....", "a..d.f..", "a.cd.f.h", "abcd.f.h", "ab.d.f.h", "abcdefgh")
"""In frame 5 `c` is masked again."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of these films; it does not play by itself, as for readers who want less motion."""
    contexts = []
    errors: list[object] = []

    def visit(*films: Any, motion: str = "reduce", **options: Any) -> Any:
        file = tmp_path / "page.html"
        file.write_text(page("text-masked", ["seed 1"], films or [film(*FRAMES)]), "utf-8")
        context = browser.new_context(reduced_motion=motion, offline=True, **options)
        contexts.append(context)
        shown = context.new_page()
        shown.on("pageerror", lambda error: errors.append(error))
        shown.on("console", lambda message: message.type == "error" and errors.append(message.text))
        shown.goto(file.as_uri())
        return shown

    yield visit
    for context in contexts:
        context.close()
    assert not errors


def text(shown: Any) -> str:
    return str(shown.locator("#text").inner_text())


def classes(shown: Any, place: int) -> list[str]:
    return (shown.locator("#text span").nth(place).get_attribute("class") or "").split()


def test_buttons_step_and_play_to_the_end(opened: Open) -> None:
    shown = opened()
    assert text(shown) == "░" * 8
    shown.click("#next")
    assert text(shown) == "a░░d░░░░"
    assert "step 1 · 1 evaluation · entropy 1.50 nats · 6 open" in shown.inner_text("#status")
    shown.click("#back")
    assert text(shown) == "░" * 8
    shown.select_option("#speed", "4")
    shown.click("#play")
    assert shown.inner_text("#play") == "Pause"
    shown.wait_for_function("document.getElementById('text').textContent === 'abcdefgh'")
    shown.wait_for_function("document.getElementById('play').textContent === 'Play'")
    shown.click("#play")  # from the end it begins again
    shown.click("#play")
    assert "░" in text(shown)


def test_it_plays_by_itself_unless_less_motion_is_wanted(opened: Open) -> None:
    shown = opened(motion="no-preference")
    assert shown.inner_text("#play") == "Pause"
    shown.wait_for_function("document.getElementById('text').textContent.includes('a')")


def test_the_slider_scrubs_in_both_directions(opened: Open) -> None:
    shown = opened()
    shown.fill("#frame", "6")
    assert text(shown) == "abcdefgh"
    shown.fill("#frame", "2")
    assert text(shown) == "a░░d░f░░"
    box = shown.locator("#frame").bounding_box()
    shown.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert text(shown) == "abcdefgh"


def test_keys_step_jump_play_and_change_speed_and_colours(opened: Open) -> None:
    shown = opened()
    for key, expected in (
        ("ArrowRight", "a░░d░░░░"),
        ("End", "abcdefgh"),
        ("ArrowLeft", "ab░d░f░h"),
        ("Home", "░" * 8),
    ):
        shown.keyboard.press(key)
        assert text(shown) == expected, key
    shown.keyboard.press("+")
    assert shown.locator("#speed").input_value() == "2"
    shown.keyboard.press("-")
    assert shown.locator("#speed").input_value() == "1"
    shown.keyboard.press(" ")
    assert shown.inner_text("#play") == "Pause"
    shown.keyboard.press(" ")
    assert shown.inner_text("#play") == "Play"
    shown.keyboard.press("a")
    assert shown.locator("input[value=age]").is_checked()
    shown.focus("#frame")
    shown.keyboard.press("Home")
    shown.keyboard.press("ArrowRight")
    assert text(shown) == "a░░d░░░░", "one step, not two, while the slider has the focus"


def test_words_are_coloured_by_probability_or_by_age_with_a_key(opened: Open) -> None:
    shown = opened()
    shown.fill("#frame", "6")
    assert "c0" in classes(shown, 0)
    assert "c1" in classes(shown, 3), "its probability is 0.15"
    assert shown.locator("#key-confidence").is_visible()
    assert not shown.locator("#key-age").is_visible()
    shown.check("input[value=age]")
    assert {"a0", "new"} <= set(classes(shown, 2)), "it was written again in the last step"
    assert "a3" in classes(shown, 0), "five steps ago"
    assert shown.locator("#key-age").is_visible()
    shown.check("input[value=none]")
    assert classes(shown, 0) == ["written"]
    colour = "getComputedStyle(document.querySelectorAll('#text span')[{}]).backgroundColor"
    shown.check("input[value=confidence]")
    assert shown.evaluate(colour.format(0)) != shown.evaluate(colour.format(7))


def test_words_that_are_masked_again_flash(opened: Open) -> None:
    shown = opened(motion="no-preference")
    shown.fill("#frame", "5")
    assert classes(shown, 2) == ["open", "again"]
    assert classes(shown, 4) == ["open"]
    style = "getComputedStyle(document.querySelectorAll('#text span')[2])"
    assert shown.evaluate(f"{style}.animationName") == "flash"
    shown.fill("#frame", "6")
    assert "again" not in classes(shown, 2)


def test_one_of_several_samples_is_chosen(opened: Open) -> None:
    shown = opened(film("..", "ab"), film("...", "..z", "xyz"))
    shown.select_option("#film", "1")
    assert text(shown) == "░░░"
    shown.keyboard.press("Escape")
    shown.fill("#frame", "2")
    assert text(shown) == "xyz"
    shown.select_option("#film", "0")
    assert text(shown) == "░░"
    assert shown.locator("#frame").get_attribute("max") == "1"


def test_images_are_shown_step_by_step(opened: Open) -> None:
    frames = []
    for number, grey in enumerate((0, 128, 255)):
        buffer = io.BytesIO()
        Image.new("L", (9, 9), grey).save(buffer, "PNG")
        frames.append(ImageFrame(number, buffer.getvalue(), 2 * number))
    shown = opened(tuple(frames))
    sources = [shown.locator("#picture").get_attribute("src")]
    for _ in range(2):
        shown.click("#next")
        sources.append(shown.locator("#picture").get_attribute("src"))
    assert len(set(sources)) == 3
    assert shown.inner_text("#status") == "step 2 · 4 evaluations"
    assert shown.evaluate("document.getElementById('picture').naturalWidth") == 9
    assert shown.locator("fieldset").count() == 0


def test_a_dark_page_is_dark_and_legible(opened: Open) -> None:
    shown = opened(color_scheme="dark")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 26, 32)"
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(228, 231, 235)"


def test_a_phone_scrolls_in_one_direction_only(opened: Open) -> None:
    long = film("." * 300, "a" * 300)
    shown = opened(long, viewport={"width": 360, "height": 640}, has_touch=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    shown.tap("#next")
    assert text(shown) == "a" * 300
    assert all(
        shown.locator(each).bounding_box()["height"] >= 32 for each in ("#play", "#back", "#next", "#speed", "#frame")
    )
