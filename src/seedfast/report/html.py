"""HTML with all text escaped, except the markup that was built here."""

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


VOID = frozenset({"img", "input", "meta", "source"})
"""Elements without content."""


def element(name: str, /, *content: object, **attributes: str | bool) -> Markup:
    """One element. Content that is not `Markup` is escaped. `class_` stands for class, True for a bare attribute."""
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not False:
            words.append(f'{key}="{escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in VOID else f"{opening}{join(content)}</{name}>")


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """The parts in a row, each escaped unless it is `Markup`."""
    return Markup(separator.join(part if isinstance(part, Markup) else escape(str(part)) for part in parts))


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> Markup:
    """A table. The first `words` columns hold text; the others hold numbers and are right-aligned."""
    kinds = ["" if column < words else "number" for column in range(len(header))]
    head = element("tr", *(element("th", cell, class_=kind) for cell, kind in zip(header, kinds, strict=True)))
    body = join(
        (
            element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
            for row in rows
        ),
        "\n",
    )
    whole = element("table", element("thead", head), "\n", element("tbody", body))
    return element("div", whole, class_="scroll")
