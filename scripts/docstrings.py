"""The docstrings of the reference pages: the lines that describe a parameter or field become a list.

mkdocstrings reads this file (mkdocs.yml). A docstring names what it describes at the beginning of a line, `name: what
it is`, which Markdown would join to the line before.
"""

import re
from typing import Any

from griffe import Class, Extension, Function


class Described(Extension):
    """Rewrites the docstrings of functions and classes."""

    def on_function_instance(self, *, func: Function, **_: Any) -> None:
        """A function, by its parameters."""
        _rewrite(func, {parameter.name for parameter in func.parameters})

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """A class, by its fields and properties."""
        _rewrite(cls, set(cls.members))


def _rewrite(described: Function | Class, names: set[str]) -> None:
    if described.docstring:
        described.docstring.value = listed(described.docstring.value, names)


def listed(text: str, names: set[str]) -> str:
    """The text of a docstring with its lines `name: …` as items of a list."""
    name = r"(?:" + "|".join(sorted(map(re.escape, names))) + r")"
    text = re.sub(rf"(?<=\.) (?={name}(?:, {name})*: )", "\n", text) if names else text
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        found = re.match(r"([\w, ]+): ", line)
        is_item = found is not None and set(found[1].split(", ")) <= names
        ends = in_list and (not line or line.startswith("Raises "))
        if (is_item and not in_list) or ends:
            lines.append("")
        in_list = is_item or (in_list and not ends)
        lines.append(f"- **{found[1]}**: {line[found.end() :]}" if found and is_item else line)
    return "\n".join(lines)
