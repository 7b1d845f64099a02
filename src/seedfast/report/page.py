"""`report.html`: one static page about a run, made from its folder alone, without scripts or network access."""

import base64
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seedfast.files import commit
from seedfast.report import costs, plots
from seedfast.report import history as histories
from seedfast.report import run_folder as folders
from seedfast.report.format import measured, size, spaced, weights_name
from seedfast.report.history import History
from seedfast.report.html import Markup, element, join, table
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
_EVENTS_SHOWN = 200


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
        *_validation(folder, history),
        *costs.section(history, folder.measure.weight_unit, folder.events),
        *_plots(folder, history, pictures),
        *_samples(folder, history),
        *_provenance(folder),
        *_checkpoints(folder),
        *_configuration(folder),
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
        *_best_tile(folder, history),
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


def _best_tile(folder: Folder, history: History) -> Iterator[tuple[str, str, str]]:
    if not folder.best:
        yield "Best validation", "none yet", "no validation has been saved"
        return
    weights, best = min(folder.best.items(), key=lambda item: float(item[1]["loss"]))
    where = f"{weights_name(weights)}, step {best['step']:,}"
    yield "Best validation loss", measured(best["loss"], best["standard_error"]), where
    for unit, factor in list(history.units.items())[:1]:
        yield (
            f"Best {spaced(unit)}",
            measured(best["loss"] * factor, _scaled(best["standard_error"], factor)),
            where,
        )


def _validation(folder: Folder, history: History) -> Iterator[Markup]:
    """Best and last validation of each kind of weights."""
    yield element("h2", "Validation")
    rows = [_score_row(w, "best saved", best["step"], best, history.units) for w, best in folder.best.items()]
    rows += [_score_row(w, "last", step, score, history.units) for w, (step, score) in history.newest.items()]
    if not rows:
        yield element("p", "There has been no validation yet.", class_="faint")
        return
    order = {"raw weights": 0, "averaged weights": 1}
    rows.sort(key=lambda row: order.get(row[0], 2))
    yield table(["Weights", "Which", "Step", "Loss", *map(spaced, history.units), "Examples", "Draws"], rows, words=2)
    yield element("p", "± one standard error, from the spread between validation examples.", class_="faint")
    sources = [
        (
            weights_name(weights),
            name,
            f"{step:,}",
            measured(each["loss"], each["standard_error"]),
            f"{each['examples']:,}",
        )
        for weights, (step, score) in history.newest.items()
        for name, each in score.get("sources", {}).items()
    ]
    if sources:
        yield table(["Weights", "Source", "Step", "Loss", "Examples"], sources, words=2)


def _score_row(
    weights: str, which: str, step: int, score: Mapping[str, Any], units: Mapping[str, float]
) -> tuple[str, ...]:
    loss, error = score["loss"], score["standard_error"]
    return (
        weights_name(weights),
        which,
        f"{step:,}",
        measured(loss, error),
        *(measured(loss * factor, _scaled(error, factor)) for factor in units.values()),
        f"{score['examples']:,}",
        f"{score['draws']:,}",
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


def _provenance(folder: Folder) -> Iterator[Markup]:
    """Versions, machine and data of the newest checkpoint, and the events of the process."""
    yield element("h2", "Provenance")
    rows: list[tuple[str, object]] = []
    if manifest := folder.manifest:
        rows += [(spaced(name), value) for name, value in {**manifest.versions, **manifest.topology}.items()]
        if manifest.fingerprint:
            rows.append(("data fingerprint", element("code", manifest.fingerprint)))
    if rows:
        yield table(["Property", "Newest checkpoint"], rows, words=2)
    if folder.events:
        yield element("h3", "Events")
        shown = folder.events[-_EVENTS_SHOWN:]
        if len(shown) < len(folder.events):
            yield element("p", f"The last {len(shown)} of {len(folder.events):,} events.", class_="faint")
        yield table(["Time", "Event", "", "Version"], [_event_row(event) for event in shown], words=4)


def _event_row(event: Mapping[str, Any]) -> tuple[str, str, str, str]:
    details = []
    for name, value in event.items():
        if name == "changes":
            details += [f"{key}: {_change(pair)}" for key, pair in _entries(value)]
        elif name not in ("event", "time", "version"):
            details.append(f"{spaced(name)} {value:,}" if type(value) is int else f"{spaced(name)} {value}")
    return (
        str(event.get("time", "")).replace("T", " "),
        str(event.get("event", "")),
        "; ".join(details),
        str(event.get("version", "")),
    )


def _change(pair: Any) -> str:
    return f"{pair[0]} → {pair[1]}" if isinstance(pair, list) and len(pair) == 2 else str(pair)


def _checkpoints(folder: Folder) -> Iterator[Markup]:
    yield element("h2", "Checkpoints")
    if not folder.manifests:
        yield element("p", "No checkpoint has been committed yet.", class_="faint")
        return
    rows = []
    for checkpoint, manifest in reversed(folder.manifests):
        marks = ["latest"] if folder.latest.get("checkpoint") == checkpoint.folder.name else []
        marks += [f"best {weights_name(w)}" for w, best in folder.best.items() if best.get("step") == checkpoint.step]
        files = manifest.files if manifest is not None else {}
        total = sum(digest["size"] for digest in files.values()) if manifest is not None else math.nan
        remark = ", ".join(marks) if manifest is not None else "its manifest cannot be read"
        name = element("code", f"checkpoints/{checkpoint.folder.name}")
        rows.append((name, remark, f"{checkpoint.step:,}", f"{len(files)}", size(total)))
    yield table(["Folder", "", "Step", "Files", "Size"], rows, words=2)


def _configuration(folder: Folder) -> Iterator[Markup]:
    yield element("h2", "Configuration")
    yield element(
        "p", "The resolved ", element("code", "run.yaml"), ", which rebuilds the run exactly.", class_="faint"
    )
    yield element("details", element("summary", "Show all settings"), element("pre", folder.text), open=True)


def _entries(mapping: Any) -> list[tuple[str, Any]]:
    return list(mapping.items()) if isinstance(mapping, Mapping) else []


def _scaled(error: float | None, factor: float) -> float | None:
    return None if error is None else error * factor


def _data_uri(picture: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(picture).decode()}"
