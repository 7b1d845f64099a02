"""What a run was made of, for the page: versions, machine, data, events, checkpoints and settings."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from seedfast.report.format import size, spaced, weights_name
from seedfast.report.html import Markup, element, table
from seedfast.report.run_folder import Folder

_EVENTS_SHOWN = 200


def section(folder: Folder) -> Iterator[Markup]:
    """All of it, each under a heading of its own."""
    yield from _provenance(folder)
    yield from _checkpoints(folder)
    yield from _configuration(folder)


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
