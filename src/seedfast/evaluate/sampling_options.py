"""Requests of samples from options by name, as Python, a page or a client of a server gives them."""

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import tyro

from seedfast.errors import UserError
from seedfast.families.generator import Request
from seedfast.loop.plain_config import typed
from seedfast.options import renamed


def settable(kind: type[Any]) -> list[str]:
    """The options of a class of requests that a person may set; the other ones are a program's."""
    hints = get_type_hints(kind, include_extras=True)

    def is_hidden(hint: Any) -> bool:
        return get_origin(hint) is Annotated and tyro.conf.Suppress in get_args(hint)[1:]

    return [f.name for f in fields(kind) if not is_hidden(hints[f.name])]


def make_request(kind: type[Any], options: dict[str, Any]) -> Request:
    """A request from options by name; a single value stands for a tuple of one.

    Raises UserError for an unknown option, naming the nearest, or a value of another type.
    """
    hints, known, old = get_type_hints(kind), {f.name for f in fields(kind)}, renamed(kind)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in old:
            raise UserError(f"The option {name} is now called {old[name]}.", option=name)
        if name not in known:
            near = get_close_matches(name, settable(kind), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(settable(kind))}."
            raise UserError(f"There is no option {name} of sampling from this model; {hint}", option=name)
        values[name] = _option(value, hints[name], name)
    request: Request = kind(**values)
    return request


def _option(value: Any, hint: Any, name: str) -> Any:
    """The value of an option. A single number, text or path stands for a tuple of one, an integer for a class of this
    name."""
    is_tuple = get_origin(hint) is tuple
    if is_tuple and isinstance(value, str | Path | int | float | np.generic):
        value = (value,)
    if is_tuple and isinstance(value, list | tuple) and get_args(hint)[-1] is Ellipsis:
        return tuple(_option(each, get_args(hint)[0], name) for each in value)
    if name == "label" and hint is str and isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = str(value)
    written = value is None or isinstance(value, str | Path | int | float | list | tuple | dict | np.generic)
    return typed(value, hint, name, "") if written else value
