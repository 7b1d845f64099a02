"""How long the studio's page takes, in Chromium, which Playwright drives.

    python bench/studio.py RUNS [--times 5]

RUNS: a folder of runs, all of which are compared (best with 10,000 steps and more). The first visit is not counted: it
starts the browser's own caches. Times are medians in milliseconds.
"""

import argparse
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from common import server

DRAW = """async () => { const start = performance.now(); document.querySelector('#log').click();
await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
return performance.now() - start; }"""


def listed(page: Page, url: str) -> float:
    """Milliseconds from the request of the page to the first row of the list."""
    page.goto(url)
    page.wait_for_selector("#runs tbody tr")
    return float(page.evaluate("performance.now()"))


def compared(page: Page, url: str) -> tuple[float, float]:
    """Milliseconds from the request of a comparison to its chart, and to draw that chart again."""
    ids = page.evaluate("fetch('api/runs').then(answer => answer.json()).then(runs => runs.map(run => run.id))")
    page.goto("about:blank")  # another fragment alone would not load the page again
    page.goto(f"{url}#compare/{','.join(ids)}")
    page.locator("#last").filter(has_text=re.compile("[0-9]")).wait_for()
    shown = float(page.evaluate("performance.now()"))
    return shown, float(page.evaluate(DRAW))


def measure(url: str, times: int) -> dict[str, list[float]]:
    """The milliseconds of each visit, the first one left out."""
    found: dict[str, list[float]] = {"list": [], "comparison": [], "drawn again": []}
    with sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser: Any = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        for _ in range(times + 1):
            for name, value in zip(found, (listed(page, url), *compared(page, url)), strict=True):
                found[name].append(value)
        browser.close()
    return {name: values[1:] for name, values in found.items()}


def main() -> None:
    """Print a line for each time."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", type=Path)
    made.add_argument("--times", type=int, default=5)
    options = made.parse_args()
    with server("studio", options.runs, "--port", 0) as url:
        for name, values in measure(url, options.times).items():
            print(f"{name:>12} {statistics.median(values):8.0f} ms")


if __name__ == "__main__":
    main()
