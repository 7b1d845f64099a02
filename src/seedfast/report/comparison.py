"""A page that compares runs: one table, what its numbers mean, and pictures."""

import base64
from collections.abc import Sequence

from seedfast.report.html import Markup, element, join, table
from seedfast.report.style import CSS


def page(
    title: str,
    facts: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    pictures: Sequence[tuple[str, bytes, bytes]] = (),
    others: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
) -> str:
    """The page as HTML; all text is escaped, and nothing is loaded from elsewhere.

    pictures: each with a caption, as PNG for light and for dark pages. others: further tables below them, each with a
    caption, its header and its rows.
    """
    top = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(CSS + "main { max-width: 90rem; }")),
    )
    parts = [
        element("h1", title),
        element("p", facts, class_="faint"),
        table(header, rows),
        *(element("p", note, class_="faint") for note in notes),
        *(_figure(*picture) for picture in pictures),
        *(part for caption, head, body in others for part in (element("h2", caption), table(head, body))),
    ]
    whole = element("body", element("main", join(parts, "\n")))
    return f"<!doctype html>\n{element('html', top, whole, lang='en')}\n"


def _figure(caption: str, light: bytes, dark: bytes) -> Markup:
    source = element("source", srcset=_uri(dark), media="(prefers-color-scheme: dark)")
    picture = element("picture", source, element("img", src=_uri(light), alt=caption))
    return element("figure", picture, element("figcaption", caption))


def _uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
