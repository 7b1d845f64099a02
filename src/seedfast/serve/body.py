"""JSON bodies of requests: parameters are taken one by one by readers that check them, and the rest is refused by name.

A parameter that would have no effect is refused too, except where it has the value that means nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from seedfast.errors import UserError

T = TypeVar("T")
Reader = Callable[[str, Any], T]
"""(Name of a parameter, its value in JSON) → the value. Raises WireError for a value of another kind."""

_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
"""Parameters for the accounts of a provider."""
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that are not supported, with the values under which they have no effect."""


class WireError(UserError):
    """A body that no model could answer."""

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message, option=option)


def parsed(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body. Raises WireError for anything else."""
    try:
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise WireError("The body is not UTF-8.") from None
    except WireError:
        raise
    except RecursionError:
        raise WireError("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise WireError(f"The body is not JSON: {error}.") from None
    except ValueError:  # Python's, of numbers with thousands of digits
        raise WireError("The body holds a number with too many digits.") from None
    if not isinstance(values, dict):
        raise WireError('The body must be a JSON object, such as {"model": …}.')
    return values


def _refuse_constant(name: str) -> None:
    raise WireError(f"The body is not JSON: it holds {name}.")


class Body:
    """The parameters that have not been read yet."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.rest = dict(values)

    def take(self, name: str, read: Reader[T], default: T) -> T:
        """The value of a parameter; null is the default."""
        value = self.rest.pop(name, None)
        return default if value is None else read(name, value)

    def refuse_rest(self, known: Sequence[str], options: Sequence[str]) -> None:
        """Raise WireError for a parameter that is left, unless it means nothing."""
        for name, value in self.rest.items():
            if value is None or name in _LABELS or value in _NOTHING.get(name, ()):
                continue
            if name in _NOTHING:
                raise WireError(f"{name} ({short(value)}) is not supported: leave it out.", name)
            near = get_close_matches(name, [*known, *options], n=1, cutoff=0.75)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*known, *options])}."
            raise WireError(f"There is no parameter called {short(name)}; {hint}", short(name))


def short(value: Any) -> str:
    """A value as a message shows it."""
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def wrong(name: str, what: str, value: Any) -> WireError:
    """The error of a parameter with a value of another kind."""
    return WireError(f"{name} must be {what}, not {short(json.dumps(value))}.", name)


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise wrong(name, "a text", value)
    return value


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value


def items(name: str, value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    return value


def object_(name: str, value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    return value


def whole(low: int, high: int | None = None) -> Reader[int]:
    """A reader of whole numbers within limits."""

    def read(name: str, value: Any) -> int:
        if type(value) is not int or value < low or (high is not None and value > high):
            limits = f"of at least {low}" if high is None else f"in {low} … {high}"
            raise wrong(name, f"a whole number {limits}", value)
        return value

    return read
