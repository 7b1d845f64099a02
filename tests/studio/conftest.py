"""A real browser, small models of each kind, and pages of a studio that may report no error."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_models
from tests.helpers.browser import chromium
from tests.helpers.runs import small_run, train_in
from tests.helpers.studio import Running, studio_of

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one module: Playwright has an event loop in this thread, which other tests must not find there."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, story: Path) -> dict[str, Path]:
    """A run of texts, of images and of captions, and a chat model of transformers."""
    root = tmp_path_factory.mktemp("studio")
    found = {recipe: root / recipe for recipe in ("text-masked", "image-diffusion", "image-caption")}
    for recipe, folder in found.items():
        train_in(folder, small_run(recipe, story, steps=2))
    return found | {"chat": tiny_models.folder(root / "chat", text=story.read_text())}


@pytest.fixture(scope="session")
def playground(models: dict[str, Path]) -> Iterator[Running]:
    with studio_of(*models.values()) as running:
        yield running


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page of a studio. The test fails if the page reports an error, or asks another server."""
    opened_in: list[tuple[Running, Any]] = []
    errors: list[object] = []

    def opened(running: Running, place: str = "", **options: Any) -> Any:
        context = browser.new_context(reduced_motion="reduce", **options)
        opened_in.append((running, context))
        running.pages.append(context)
        shown = context.new_page()
        shown.set_default_timeout(20_000)
        shown.on("pageerror", lambda error: errors.append(error))
        shown.on("console", lambda message: message.type == "error" and errors.append(message.text))
        shown.on(
            "request",
            lambda request: request.url.startswith((running.url, "data:", "blob:")) or errors.append(request.url),
        )
        shown.goto(running.url + place)
        return shown

    yield opened
    for running, context in opened_in:
        running.pages.remove(context)
        context.close()
    assert not errors
