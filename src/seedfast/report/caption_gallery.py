"""`captions.html`: validation images, their generated captions and their references. No scripts, no network."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from seedfast.families.caption.metrics import words
from seedfast.families.caption.samples import CaptionSamples, picture
from seedfast.files import commit
from seedfast.report.html import Markup, element, table
from seedfast.report.style import CSS

SHOWN = 200
_CSS = """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.card { display: flex; gap: 0.8rem; background: var(--sheet); border: 1px solid var(--line); border-radius: 0.5rem;
  padding: 0.7rem; font-size: 0.87rem; }
.card img { width: 5.5rem; height: 5.5rem; flex: none; border-radius: 0.3rem; }
.card p { margin: 0 0 0.35rem; }
.right { color: var(--good); }
.wrong { color: var(--warn); }
"""


def write(run_folder: Path, samples: CaptionSamples, *, title: str, metrics: Sequence[tuple[str, str, str]]) -> Path:
    """Write the page into a run folder and return its path.

    metrics: rows of a name, the model's value and the baseline's, as text. The page shows at most `SHOWN` images,
    spread evenly over all.
    """
    count = len(samples.captions)
    chosen = range(count) if count <= SHOWN else [i * count // SHOWN for i in range(SHOWN)]
    style = element("style", Markup(CSS + _CSS))
    head = element("head", element("meta", charset="utf-8"), element("title", title), style)
    body = element(
        "main",
        element("h1", title),
        table(["Metric", "Model", "Nearest training picture"], metrics),
        element("h2", f"{len(chosen)} of {count:,} held-out images"),
        element("div", *(_card(samples, index) for index in chosen), class_="gallery"),
    )
    path = run_folder / "captions.html"
    page = f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"
    commit(path, page.encode("utf-8", errors="replace"))
    return path


def _card(samples: CaptionSamples, index: int) -> Markup:
    caption, references = samples.captions[index][0].text, samples.images.references[index]
    buffer = io.BytesIO()
    picture(samples.images.pixels_BCSS[index]).save(buffer, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    is_exact = words(caption) in [words(reference) for reference in references]
    return element(
        "div",
        element("img", src=source, alt=samples.images.names[index]),
        element(
            "div",
            element("p", caption or "(nothing)", class_="right" if is_exact else "wrong"),
            *(element("p", reference, class_="faint") for reference in references),
        ),
        class_="card",
    )
