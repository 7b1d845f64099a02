"""The options of a family's requests as descriptions of form controls."""

from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from seedfast.evaluate.sampling_options import settable
from seedfast.field_docstrings import field_docstrings
from seedfast.options import default, describe

OWN = {
    "prompt", "infill", "canvas", "trace", "explain", "image", "inpaint", "mask", "gif", "batch", "individual",
    "attention", "chat",
}  # fmt: skip
"""Options that the page sets in other ways, or that change nothing that it shows."""
_KINDS: dict[Any, str] = {bool: "switch", int: "integer", float: "number", str: "text"}


def described(kind: type[Any]) -> list[dict[str, Any]]:
    """The options of a class of requests: their name, kind of control, choices, default, limits and help.

    Kinds are choice, switch, integer, number, text, and texts for a list of texts.
    """
    hints, helps = get_type_hints(kind, include_extras=True), field_docstrings(kind)
    found = []
    chosen = set(settable(kind)) - OWN
    for field in fields(kind):
        control = _control(hints[field.name]) if field.name in chosen else None
        if control is not None:
            value = default(field)
            found.append(
                {
                    "name": field.name,
                    "default": None if value is MISSING else value,
                    "limits": describe(kind, field.name),
                    "help": helps.get(field.name, ""),
                    **control,
                }
            )
    return found


def _control(hint: Any) -> dict[str, Any] | None:
    """The control of a type; None for a type that has none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _control(arguments[0])
    if origin in (Union, UnionType):
        inner = [each for each in arguments if each is not type(None)]
        return _control(inner[0]) if len(inner) == 1 else None
    if origin is Literal:
        return {"kind": "choice", "choices": list(arguments)}
    if origin is tuple and arguments == (str, ...):
        return {"kind": "texts"}
    return {"kind": _KINDS[hint]} if hint in _KINDS and hint is not Path else None
