"""The playground in a real browser, with small models of each kind."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers.browser import expect
from tests.helpers.studio import Running

import seedfast

Visit = Callable[..., Any]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.effect_noise((16, 16), 80).save(path)
    return path


def opened(visit: Visit, playground: Running, folder: Path, **options: Any) -> Any:
    """The page of a model, loaded."""
    shown = visit(playground, f"#play/{playground.id(folder)}", **options)
    expect(shown.locator("#origin")).to_contain_text("weights")
    return shown


def finished(shown: Any) -> None:
    """Wait until samples are there."""
    shown.locator("a[href$='animation.gif']").first.wait_for()


def test_a_text_is_written_and_watched(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("#prompt", "the ")
    shown.fill("#seed", "3")
    shown.fill("input[name=tokens]", "8")
    shown.fill("input[name=steps]", "4")
    shown.click("#write")
    finished(shown)
    expected = seedfast.load(models["text-masked"], device="cpu").sample(prompt="the ", tokens=8, steps=4, seed=3)
    expect(shown.locator(".stage pre")).to_have_text(str(expected), use_inner_text=True)
    expect(shown.locator(".status")).to_contain_text("step 4")
    shown.fill("#frame", "0")
    expect(shown.locator(".stage pre")).to_have_text("the " + "░" * 8, use_inner_text=True)
    shown.click("#next")
    expect(shown.locator(".stage pre .new")).to_have_count(2)
    expect(shown.locator(".status")).to_contain_text("entropy")
    shown.select_option("#speed", "4")
    shown.click("#play")
    expect(shown.locator(".status")).to_contain_text("step 4")
    expect(shown.locator("#play")).to_have_text("Play")
    shown.check("input[value=age]")
    expect(shown.locator("#key-age")).to_be_visible()
    expect(shown.locator(".stage .a0")).to_have_count(2)


def test_gaps_are_drawn_in_the_text_and_filled(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("#prompt", "the cat the")
    shown.locator("#prompt").evaluate("each => each.setSelectionRange(4, 7)")
    shown.click("#gap")
    expect(shown.locator("#prompt")).to_have_value("the ⟨gap:3⟩ the")
    assert shown.locator("input[name=tokens]").count() == 0, "an infill has its own number of tokens"
    shown.click("#write")
    finished(shown)
    text = shown.locator(".stage pre").text_content()
    assert (text[:4], text[-4:], len(text)) == ("the ", " the", 11)
    assert shown.locator(".stage .given").count() == 8


def test_two_samplers_are_shown_in_step_on_the_same_keys(
    visit: Visit, playground: Running, models: dict[str, Path]
) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("input[name=tokens]", "8")
    shown.check("#two")
    shown.locator("fieldset", has_text="sampler B").locator("input[name=steps]").fill("2")
    shown.click("#write")
    expect(shown.locator("a[href$='animation.gif']")).to_have_count(2)
    a, b = shown.locator(".status").all_inner_texts()
    assert a.startswith("step 8")
    assert b.startswith("step 2")
    shown.fill("#frame", "1")
    expect(shown.locator(".status").nth(1)).to_contain_text("step 1")
    shown.locator("fieldset", has_text="sampler B").locator("input[name=steps]").fill("")
    shown.click("#write")
    expect(shown.locator(".status").nth(1)).to_contain_text("step 8")
    finished(shown)
    one, other = shown.locator(".stage pre").all_inner_texts()
    assert one == other, "equal samplers on the same keys write the same text"


def test_words_that_are_masked_again_flash(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("input[name=tokens]", "12")
    shown.fill("input[name=steps]", "12")
    shown.select_option("select[name=order]", "ancestral")
    shown.fill("input[name=remdm]", "0.9")
    shown.click("#write")
    finished(shown)
    again = []
    for number in range(13):
        shown.fill("#frame", str(number))
        expect(shown.locator(".status")).to_contain_text(f"step {number} ")
        again.append(shown.locator(".stage .open.again").count())
    assert again[0] == 0
    assert any(again)


def test_an_animation_is_downloaded(visit: Visit, playground: Running, models: dict[str, Path], browser: Any) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("input[name=tokens]", "4")
    shown.click("#write")
    finished(shown)
    found = {}
    for ending in ("html", "gif"):
        with shown.expect_download() as download:
            shown.click(f"a[href$='animation.{ending}']")
        found[ending] = Path(download.value.path()).read_bytes()
    assert found["html"].startswith(b"<!doctype html>")
    assert Image.open(io.BytesIO(found["gif"])).n_frames == 5


def test_a_mistake_is_a_sentence_on_the_page(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("#prompt", "Ω")
    shown.click("#write")
    expect(shown.locator("[role=alert]")).to_contain_text("Ω")
    shown.fill("#prompt", "")
    shown.fill("input[name=num]", "1000")
    shown.click("#write")
    expect(shown.locator("[role=alert]")).to_contain_text("64 at most")
    shown.fill("input[name=num]", "2")
    shown.fill("input[name=tokens]", "4")
    shown.click("#write")
    finished(shown)
    assert shown.locator("[role=alert]").count() == 0
    shown.select_option("#film", "1")


def test_images_of_classes_come_out_of_noise(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["image-diffusion"])
    shown.fill("input[name=steps]", "3")
    shown.fill("input[name=strip]", "4")
    shown.locator("input[name=label]").first.check()
    shown.click("#generate")
    finished(shown)
    sources = set()
    for number in range(4):
        shown.fill("#frame", str(number))
        expect(shown.locator(".status")).to_contain_text(f"step {number}")
        sources.add(shown.locator("img.picture").get_attribute("src"))
    assert len(sources) == 4
    assert shown.locator("img[alt='strip.png']").count() == 1


def test_a_part_of_an_image_is_painted_over_and_filled(
    visit: Visit, playground: Running, models: dict[str, Path], picture: Path
) -> None:
    shown = opened(visit, playground, models["image-diffusion"])
    shown.check("input[name=mode][value=inpaint]")
    shown.set_input_files("#source", picture)
    shown.locator("#mask").wait_for()
    shown.fill("input[name=steps]", "2")
    shown.fill("input[name=resample]", "1")
    shown.click("#generate")
    expect(shown.locator("[role=alert]")).to_contain_text("Nothing would be filled")
    box = shown.locator("#mask").bounding_box()
    shown.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    shown.mouse.down()
    shown.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=3)
    shown.mouse.up()
    white = (
        "each => each.getContext('2d').getImageData(0, 0, 16, 16).data.filter((v, i) => i % 4 === 0 && v > 128).length"
    )
    painted = shown.locator("#mask").evaluate(white)
    assert 0 < painted < 128
    shown.click("#generate")
    finished(shown)
    shown.click("#clear")
    assert shown.locator("#mask").evaluate(white) == 0
    shown.click("#middle")
    assert shown.locator("#mask").evaluate(white) == 64
    shown.click("#use-first")
    shown.check("input[name=mode][value=image]")
    shown.click("#generate")
    finished(shown)


@pytest.mark.parametrize("recipe", ["image-diffusion", "image-caption"])
def test_a_file_that_is_no_picture_is_told_when_it_is_chosen(
    visit: Visit, playground: Running, models: dict[str, Path], picture: Path, tmp_path: Path, recipe: str
) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    shown = opened(visit, playground, models[recipe])
    if recipe == "image-diffusion":
        shown.check("input[name=mode][value=inpaint]")
    shown.set_input_files("#source", tmp_path / "notes.png")
    expect(shown.locator("[role=alert]")).to_contain_text("notes.png is no picture")
    assert shown.locator("#mask").count() == 0
    shown.set_input_files("#source", picture)
    expect(shown.locator("[role=alert]")).to_have_count(0)
    if recipe == "image-diffusion":
        shown.locator("#mask").wait_for()


def test_a_caption_shows_where_each_token_attends_to(
    visit: Visit, playground: Running, models: dict[str, Path], picture: Path
) -> None:
    shown = opened(visit, playground, models["image-caption"])
    assert shown.locator("#caption").is_disabled()
    shown.set_input_files("#source", picture)
    shown.click("#caption")
    tokens = shown.locator(".tokens button")
    tokens.first.wait_for()
    caption: Any = seedfast.load(models["image-caption"], device="cpu").sample(image=(picture,), seed=1)
    assert shown.locator("#captions").text_content() == caption.captions[0][0].text, "without the name of a file"
    assert all(text for text in tokens.all_text_contents()), "a space is shown too"
    expect(tokens.first).to_have_attribute("aria-pressed", "true")
    if tokens.count() > 1:
        tokens.nth(1).click()
        expect(tokens.nth(1)).to_have_attribute("aria-pressed", "true")
    opacity = "each => Math.max(...each.getContext('2d').getImageData(0, 0, each.width, each.height).data)"
    assert shown.locator("#attention").evaluate(opacity) > 0
    assert shown.evaluate("document.querySelector('.attention img').naturalWidth") == 448


def test_a_chat_goes_on_for_several_turns(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["chat"])
    shown.fill("input[name=tokens]", "6")
    shown.fill("#message", "sun")
    shown.keyboard.press("Enter")
    expect(shown.locator("#again")).to_be_enabled()
    first = shown.locator("#talk .assistant").inner_text()
    shown.click("#again")
    expect(shown.locator("#again")).to_be_enabled()
    again = shown.locator("#talk .assistant").inner_text()
    shown.fill("#message", "moon")
    shown.click("#send")
    expect(shown.locator("#talk > div")).to_have_count(4)
    expect(shown.locator("#again")).to_be_enabled()
    assert first != again, "a second try has another key"
    shown.click("#new")
    expect(shown.locator("#talk > div")).to_have_count(0)
    shown.fill("#message", "<|im_end|>")
    shown.click("#send")
    expect(shown.locator("[role=alert]")).to_contain_text("special token")


def test_a_phone_scrolls_in_one_direction_only(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"], viewport={"width": 360, "height": 640}, has_touch=True)
    shown.fill("input[name=tokens]", "8")
    shown.tap("#write")
    finished(shown)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_client_that_leaves_ends_its_sampler(visit: Visit, playground: Running, models: dict[str, Path]) -> None:
    shown = opened(visit, playground, models["text-masked"])
    shown.fill("input[name=tokens]", "1000")
    shown.fill("input[name=steps]", "1000")
    shown.click("#write")
    shown.locator(".stage .written").first.wait_for()
    shown.click("#stop")
    expect(shown.locator("#write")).to_be_enabled()
    shown.fill("input[name=tokens]", "4")
    shown.fill("input[name=steps]", "2")
    shown.click("#write")
    finished(shown)


def test_images_show_how_far_they_are_and_can_be_stopped(
    visit: Visit, playground: Running, models: dict[str, Path]
) -> None:
    shown = opened(visit, playground, models["image-diffusion"])
    shown.select_option("select[name=sampler]", "ddpm")
    shown.fill("input[name=steps]", "900")
    shown.fill("input[name=num]", "64")
    shown.click("#generate")
    expect(shown.locator("[role=status]").first).to_contain_text("%")
    shown.click("#stop")
    expect(shown.locator("#generate")).to_be_enabled()
    shown.fill("input[name=steps]", "2")
    shown.fill("input[name=num]", "1")
    shown.click("#generate")
    finished(shown)
