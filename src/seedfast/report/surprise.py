"""A page of texts whose tokens are coloured by surprise, -log₂ of their probability.

One hue whose strength grows with the surprise, so that it reads with any kind of colour vision, in print, and on light
and dark pages; the blue of Okabe and Ito (2008).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seedfast.report.html import Markup, element, join
from seedfast.report.style import CSS

LEVELS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Bits from which each stronger colour begins."""
_STRONGEST = 0.6
_COLOURS = "\n".join(
    [
        ":root { --surprise: 0 114 178; }",
        "@media (prefers-color-scheme: dark) { :root { --surprise: 86 180 233; } }",
        *(
            f".s{level} {{ background: rgb(var(--surprise) / {_STRONGEST * level / len(LEVELS):.2f}); }}"
            for level in range(1, len(LEVELS) + 1)
        ),
        ".never { outline: 2px solid var(--warn); }",
        ".given { color: var(--faint); }",
        ".text { font-size: 0.95rem; line-height: 1.8; max-height: none; }",
        ".key span { padding: 0.1rem 0.5rem; }",
    ]
)


@dataclass(frozen=True)
class Span:
    """A piece of text. bits: its surprise; None for text that was given. hint: shown when it is pointed at."""

    text: str
    bits: float | None = None
    hint: str = ""


@dataclass(frozen=True)
class Passage:
    """A text of the page. facts: its numbers, in words."""

    name: str
    facts: str
    spans: Sequence[Span]


def level(bits: float) -> int:
    """The strength of a surprise's colour: 0 … 7."""
    return sum(bits >= least for least in LEVELS)


def page(title: str, facts: Sequence[str], passages: Sequence[Passage]) -> str:
    """The page as HTML; all text is escaped, and nothing is loaded from elsewhere."""
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(CSS + _COLOURS)),
        ]
    )
    body = element(
        "main",
        element("h1", title),
        *(element("p", fact, class_="faint") for fact in facts),
        _legend(),
        *(
            element(
                "section",
                element("h2", each.name),
                element("p", each.facts, class_="faint"),
                element("pre", *map(_span, each.spans), class_="text"),
            )
            for each in passages
        ),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _legend() -> Markup:
    steps = [element("span", f"{least:g}", class_=f"s{n + 1}") for n, least in enumerate(LEVELS)]
    return element("p", "surprise in bits, from: ", *steps, class_="key")


def _span(span: Span) -> Markup:
    if span.bits is None:
        return element("span", span.text, class_="given", title=span.hint or "given")
    kind = f"s{level(span.bits)}" if math.isfinite(span.bits) else f"s{len(LEVELS)} never"
    return element("span", span.text, class_=kind, title=span.hint)
