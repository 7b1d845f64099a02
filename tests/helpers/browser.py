"""A real browser without a window, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def installed() -> tuple[Any, str]:
    """Playwright, and the path of Chromium. Skips the test where one of them is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)})")
    return api, path


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright. Skips the test where one of them is missing."""
    api, path = installed()
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def expect(locator: Any) -> Any:
    """Assertions about a part of a page that wait until they hold. They need no eval, which some pages forbid."""
    from playwright.sync_api import expect as expectation

    expectation.set_options(timeout=20_000)
    return expectation(locator)
