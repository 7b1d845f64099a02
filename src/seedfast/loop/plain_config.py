"""Configurations as plain values: nested mappings of their fields, and YAML."""

import re
import sys
import types
from collections.abc import Mapping, Set
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np
import yaml

from seedfast import untrusted
from seedfast.errors import UserError
from seedfast.options import AddedLater, renamed, rules

C = TypeVar("C")
_SHOWN = 200  # characters of a wrong value in a message


def to_yaml(run: Any) -> str:
    """A run as YAML, which `from_mapping` takes back unchanged."""
    return yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True)


def plain(run: Any) -> dict[str, Any]:
    """A run as nested mappings and lists: the value that its YAML describes."""
    values: dict[str, Any] = _plain(asdict(run))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if there is none, or a key occurs twice."""
    try:
        content = untrusted.read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of a run's fields to values.")
    return content


@runtime_checkable
class _Migrating(Protocol):
    """A configuration that converts stored values whose meaning has changed."""

    def migrated(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values as they are written now."""
        ...


def from_mapping(template: C, values: Mapping[str, Any], *, where: str, prefix: str = "") -> C:
    """`template`, a dataclass, with these fields replaced; nested mappings replace fields of nested dataclasses.

    Earlier names of fields are migrated (`options.Formerly`), and values whose meaning changed (`migrated`).
    Raises UserError for an unknown key or a value of the wrong type, naming the key.
    """
    hints = get_type_hints(type(template))
    known = {f.name for f in fields(template)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    earlier = renamed(type(template))
    if isinstance(template, _Migrating):
        values = template.migrated(values)
    changes |= _added_later(type(template), {earlier.get(given, given) for given in values})
    for given, value in values.items():
        key = given if given in known else earlier.get(given, given)
        name = f"{prefix}{key}"
        if key not in known:
            raise UserError(f"{where} has the unknown key {name}; known are: {', '.join(sorted(known))}.")
        current = getattr(template, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: {name} must be a mapping of its fields, not {value!r}.")
            changes[key] = from_mapping(current, value, where=where, prefix=f"{name}.")
        else:
            changes[key] = typed(value, hints[key], name, where)
    return replace(template, **changes)  # type: ignore[type-var]


def _added_later(kind: type, given: Set[str]) -> dict[str, Any]:
    """The values of the options that did not exist when a configuration was stored, which names all others."""
    added = {name: rule.value for name, found in rules(kind).items() for rule in found if isinstance(rule, AddedLater)}
    is_stored = bool(added) and given >= {f.name for f in fields(kind)} - added.keys()
    return {name: value for name, value in added.items() if name not in given} if is_stored else {}


def typed(value: Any, hint: Any, name: str, where: str) -> Any:
    """`value` as the type `hint`, where YAML's own types, NumPy's numbers and paths allow it without loss.

    name: the key. where: what precedes it in messages, if anything. Raises UserError for another type, naming the key.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return typed(value, option, name, where)
            except UserError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) == len(value):
            return tuple(typed(item, kind, name, where) for item, kind in zip(value, inner, strict=True))
    elif hint is float and (type(value) is float or _is_finite_int(value) or _is_scientific(value)):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    choices = [
        value for part in arguments or (hint,) for value in (get_args(part) if get_origin(part) is Literal else ())
    ]
    key, shown = f"{where}: {name}" if where else name, _shown(value)
    if origin is Literal or choices:
        *some, last = map(str, arguments if origin is Literal else choices)
        raise UserError(f"{key} must be {', '.join(some)}{' or ' if some else ''}{last}, not {shown}.", option=name)
    expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    reason = f"{key} must be of type {expected}, not {shown} ({type(value).__name__})."
    raise UserError(reason, option=name)


def _shown(value: Any) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _is_finite_int(value: Any) -> bool:
    """Whether a value is an integer in the range of floats."""
    return type(value) is int and abs(value) <= sys.float_info.max


def _is_scientific(value: Any) -> bool:
    """Whether a string is a number like 1e-3, which YAML 1.1 reads as text (it requires 1.0e-3)."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
