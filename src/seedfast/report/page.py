"""`report.html`: one static page about a run, made from its folder alone, without scripts or network access."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from seedfast.files import commit
from seedfast.report import costs, plots, provenance, validations
from seedfast.report import history as histories
from seedfast.report import run_folder as folders
from seedfast.report.history import History
from seedfast.report.html import Markup, element, join
from seedfast.report.run_folder import Folder, SampleFile
from seedfast.report.style import CSS
from seedfast.report.theme import DARK, LIGHT
from seedfast.run_folder.links import refuse_links
from seedfast.version import VERSION

_SUBJECTS = {
    "loss": (
        "Loss",
        "Training loss of each step, its running mean, and the validation loss with one standard error to either "
        "side. It is the objective itself: where the objective is a bound on the negative log-likelihood, every "
        "number is one.",
    ),
    "curves": (
        "Where the model improves",
        "Diagnostics of the newest validation along an axis, and fainter those of earlier validations of the same "
        "examples.",
    ),
    "rate": (
        "Learning rate and gradient norm",
        "Learning rate of each optimizer, and the norm of the whole gradient before clipping, on a logarithmic axis.",
    ),
    "throughput": (
        "Throughput",
        "The weight of a step (the divisor of its loss) over its time, of training alone. MFU: the FLOPs of the model "
        "in a step over its time and the peak of the devices. Waiting for data: of the process.",
    ),
    "diagnostics": ("Diagnostics", "Averages over the global batch, or over the validation examples."),
}


def write(run_folder: Path) -> Path:
    """Write `report.html` and the plots in `report/` (`loss.png`, `loss-dark.png`, …); returns the path of the page.

    Reads only the run folder, also during training. Raises UserError if it is no run folder, or links lead out.
    """
    folder = folders.read(run_folder)
    refuse_links(run_folder, "report", "report.html")
    history = histories.read(run_folder)
    pictures = _draw(folder, history)
    place = run_folder / "report"
    place.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        commit(place / f"{name}.png", picture)
    path = run_folder / "report.html"
    commit(path, render(folder, history, pictures).encode("utf-8", errors="replace"))
    return path


def _context(folder: Folder) -> plots.PlotContext:
    clip = folder.run.get("clip")
    return plots.PlotContext(
        title=str(folder.run["recipe"]),
        clip=clip if isinstance(clip, int | float) else None,
        best=folder.best,
        measure=folder.measure,
    )


def _draw(folder: Folder, history: History) -> dict[str, bytes]:
    """The plots by file name; the names of the dark ones end in "-dark"."""
    context = _context(folder)
    light, dark = plots.draw(history, context, LIGHT), plots.draw(history, context, DARK)
    return light | {f"{name}-dark": picture for name, picture in dark.items()}


def render(folder: Folder, history: History, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML, a pure function: the same run folder gives the same page."""
    title = str(folder.run["recipe"])
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} · step {history.step:,} of {folder.run['steps']:,}"),
        element("style", Markup(CSS)),
    )
    sections = [
        *_header(folder, history),
        *validations.section(folder, history),
        *costs.section(history, folder.measure.weight_unit, folder.events),
        *_plots(folder, history, pictures),
        *_samples(folder, history),
        *provenance.section(folder),
        element("p", f"Written by seedfast {VERSION}.", class_="faint"),
    ]
    body = element("body", element("main", join(sections, "\n")))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(folder: Folder, history: History) -> Iterator[Markup]:
    """Title, state, progress, and the most important numbers."""
    steps = folder.run["steps"]
    if history.step >= steps:
        kind, state = "finished", "finished"
    elif folder.is_training:
        kind, state = "running", "running when this page was written"
    else:
        kind, state = "interrupted", f"interrupted after step {history.step:,}"
    yield element(
        "div",
        element("h1", folder.run["recipe"]),
        element("span", state, class_=f"state {kind}"),
        class_="head",
    )
    yield element("p", element("code", folder.path.resolve().name), class_="faint")
    for reason in dict.fromkeys(str(e.get("reason")) for e in reversed(folder.events) if e.get("event") == "warning"):
        yield element("p", f"Warning: {reason}", class_="warning")
        break  # only the newest; the events list all
    yield element("progress", value=str(min(history.step, steps)), max=str(steps))
    tiles = [
        ("Step", f"{history.step:,}", f"of {steps:,}"),
        *validations.tiles(folder, history),
        *costs.tiles(history),
    ]
    if len(history.skipped):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in history.reasons.most_common(3))
        tiles.append(("Skipped updates", f"{len(history.skipped):,}", reasons))
    yield element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value, element("span", note)))
            for name, value, note in tiles
        ),
        class_="tiles",
    )


def _plots(folder: Folder, history: History, pictures: Mapping[str, bytes]) -> Iterator[Markup]:
    """The plots, each as a light and a dark picture; the browser chooses one by the setting of the system."""
    if not pictures:
        yield element("h2", "Plots")
        yield element("p", "No step has been taken yet.", class_="faint")
    for name, (title, caption) in _SUBJECTS.items():
        if name not in pictures:
            continue
        if name == "diagnostics" and (more := plots.left_out(history, _context(folder))):
            caption += f" {more} more are in journal.jsonl."
        dark = element("source", srcset=_data_uri(pictures[f"{name}-dark"]), media="(prefers-color-scheme: dark)")
        picture = element("picture", dark, element("img", src=_data_uri(pictures[name]), alt=f"{title}. {caption}"))
        yield element("h2", title)
        yield element("figure", picture, element("figcaption", caption))


def _samples(folder: Folder, history: History) -> Iterator[Markup]:
    if folder.samples:
        yield element("h2", "Latest samples")
        if history.decoding:
            yield element("p", f"Decoding: {history.decoding}.", class_="faint")
    for sampled in folder.samples:
        yield from _sample(sampled)
    if folder.earlier:
        parts = [part for each in folder.earlier for part in _sample(each)]
        yield element("details", element("summary", "Earlier samples"), *parts)


def _sample(sampled: SampleFile) -> Iterator[Markup]:
    """A file of samples: its name, and the text or the picture."""
    yield element("p", element("code", sampled.name), class_="faint")
    if sampled.picture is not None:
        yield element("img", src=_data_uri(sampled.picture, sampled.media), alt=sampled.name)
    else:
        yield element("pre", sampled.text or "")


def _data_uri(picture: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(picture).decode()}"
