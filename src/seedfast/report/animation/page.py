"""An animation as one HTML file with everything in it: play, scrub, speed, colours by age or probability, keys."""

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from seedfast.families.film import OPEN, Cell, Film, ImageFrame, TextFrame
from seedfast.report.animation.palette import AGES, BLUE, CONFIDENCE, GREEN, VERMILLION, Tint
from seedfast.report.html import Markup, element, join
from seedfast.report.style import CSS

_HUES = {VERMILLION: "vermillion", BLUE: "blue", GREEN: "green"}
SPEEDS = (0.25, 0.5, 1, 2, 4)
"""Factors of the speed, of which 1 shows all frames in a few seconds."""


def page(title: str, facts: Sequence[str], films: Sequence[Film], names: Sequence[str] = ()) -> str:
    """The page. facts: lines below the title. names: of the films (default: their numbers).

    All text is escaped, and nothing is loaded from elsewhere.
    """
    data = {"films": [film_data(film) for film in films]}
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(CSS + colours() + _resource("page.css"))),
        ]
    )
    is_text = any(isinstance(film[0], TextFrame) for film in films)
    body = element(
        "main",
        element("h1", title),
        *(element("p", fact, class_="faint") for fact in facts),
        element("div", _stage(is_text=is_text), class_="stage"),
        element("p", id="status", class_="status"),
        element("div", *_controls(is_text, names or [f"sample {n + 1}" for n in range(len(films))]), class_="controls"),
        *(_key() if is_text else ()),
        element("p", _KEYS + (_TEXT_KEYS if is_text else ""), class_="faint"),
        element("script", _json(data), type="application/json", id="data"),
        element("script", Markup(_resource("film.js") + _resource("page.js"))),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


_KEYS = "Keys: space plays and pauses, ← and → step, Home and End jump, − and + change the speed"
_TEXT_KEYS = ", c colours by confidence, a by age, n not at all"


def _stage(*, is_text: bool) -> Markup:
    return element("pre", id="text") if is_text else element("img", id="picture", alt="the images at this step")


def _controls(is_text: bool, names: Sequence[str]) -> list[Markup]:
    speeds = (element("option", f"{speed:g}×", value=f"{speed:g}", selected=speed == 1) for speed in SPEEDS)
    buttons = (("back", "◀", "one step back"), ("play", "Play", "play or pause"), ("next", "▶", "one step on"))
    found = [
        element("button", text, id=name, type="button", title=hint, aria_label=hint) for name, text, hint in buttons
    ]
    found.append(element("input", id="frame", type="range", min="0", value="0", step="1", aria_label="step"))
    found.append(element("label", "speed ", element("select", *speeds, id="speed")))
    if len(names) > 1:
        options = (element("option", name, value=str(number)) for number, name in enumerate(names))
        found.append(element("label", "show ", element("select", *options, id="film")))
    if is_text:
        radios = (
            element(
                "label", element("input", type="radio", name="colour", value=kind, checked=kind == "confidence"), kind
            )
            for kind in ("confidence", "age", "none")
        )
        found.append(element("fieldset", element("legend", "colour by"), *radios))
    return found


def _key() -> list[Markup]:
    """What the colours mean: one line for each way of colouring, of which the script shows one."""
    always = (
        element("span", OPEN, class_="open"),
        " open ",
        element("span", OPEN, class_="open again"),
        " masked again",
    )
    kinds = (("confidence", "c", "probability from ", CONFIDENCE), ("age", "a", "steps since it was written: ", AGES))
    return [
        element("p", *always, class_="key"),
        *(
            element(
                "p", words, *(element("span", tint.name, class_=f"{letter}{n}") for n, tint in enumerate(tints)),
                class_="key", id=f"key-{kind}",
            )
            for kind, letter, words, tints in kinds
        ),
    ]  # fmt: skip


def colours() -> str:
    """The style of the classes c0 … of probabilities and a0 … of ages."""

    def rule(letter: str, place: int, tint: Tint) -> str:
        return f".{letter}{place} {{ background: rgb(var(--{_HUES[tint.hue]}) / {tint.strength}); }}"

    hues = " ".join(f"--{name}: {' '.join(map(str, hue))};" for hue, name in _HUES.items())
    rules = [
        rule(letter, n, tint) for letter, tints in (("c", CONFIDENCE), ("a", AGES)) for n, tint in enumerate(tints)
    ]
    return "\n".join([f":root {{ {hues} }}", *rules, ""])


def film_data(film: Film) -> dict[str, Any]:
    """The frames of a film as JSON values: pictures, or the changes from one text to the next."""
    pictures = [_picture(frame) for frame in film if isinstance(frame, ImageFrame)]
    return {"frames": pictures or _changes([frame for frame in film if isinstance(frame, TextFrame)])}


def _picture(frame: ImageFrame) -> dict[str, Any]:
    source = f"data:image/png;base64,{base64.b64encode(frame.png).decode()}"
    return {"status": frame.status, "picture": source}


def _changes(film: Sequence[TextFrame]) -> list[dict[str, Any]]:
    """Each frame as its size and the cells that changed: their place, text, state and probability."""
    found = []
    before: tuple[Cell, ...] = ()
    for frame in film:
        changed = [
            [place, cell.text, cell.state, None if cell.probability is None else round(cell.probability, 3)]
            for place, cell in enumerate(frame.cells)
            if place >= len(before) or _seen(cell) != _seen(before[place])
        ]
        found.append({"status": frame.status, "size": len(frame.cells), "changes": changed})
        before = frame.cells
    return found


def _seen(cell: Cell) -> tuple[object, ...]:
    return cell.text, cell.state, cell.since, cell.probability


def _json(value: object) -> Markup:
    """As JSON that cannot end the element that it stands in."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
