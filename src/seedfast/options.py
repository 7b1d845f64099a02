"""Rules of options, written once: in the type of the field.

    width: Annotated[int, AtLeast(1)] = 128
    eta: Annotated[float | None, Between(0, 1), OnlyWith(sampler="ddim")] = None

`check` enforces them when a configuration is built, `describe` puts them into `--help`, and the tests read them too. A
rule that depends on anything but the options, such as the files on the disk, is enforced with `refuse_unused`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from seedfast.errors import UserError


class Rule:
    """A property of an option, part of the field's type: `Annotated[int, AtLeast(1)]`."""

    def description(self, prefix: str = "") -> str:
        """The rule in words, such as "at least 1" or "only with sampler ddim"; "" for a rule that limits nothing.

        prefix: precedes the names of other options.
        """
        return ""

    def allows(self, value: Any) -> bool:
        """Whether a number satisfies the rule. None, which stands for a default, always does."""
        return True


@dataclass(frozen=True)
class AtLeast(Rule):
    """A closed lower limit. word: a further value."""

    lowest: float
    word: str | None = None

    def description(self, prefix: str = "") -> str:
        return f"{f'{self.word}, or ' if self.word else ''}at least {self.lowest:g}"

    def allows(self, value: Any) -> bool:
        return value == self.word if isinstance(value, str) else bool(value >= self.lowest)


@dataclass(frozen=True)
class MoreThan(Rule):
    """An open lower limit."""

    limit: float

    def description(self, prefix: str = "") -> str:
        return "positive" if self.limit == 0 else f"more than {self.limit:g}"

    def allows(self, value: Any) -> bool:
        return bool(self.limit < value < math.inf)


@dataclass(frozen=True)
class Between(Rule):
    """A range; `open_low` and `open_high` exclude its ends."""

    lowest: float
    highest: float
    open_low: bool = False
    open_high: bool = False

    def description(self, prefix: str = "") -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {left}{self.lowest:g}, {self.highest:g}{right}"

    def allows(self, value: Any) -> bool:
        above = value > self.lowest if self.open_low else value >= self.lowest
        below = value < self.highest if self.open_high else value <= self.highest
        return bool(above and below)


class NotEmpty(Rule):
    """A text that names something; an empty path would be the present folder."""

    def description(self, prefix: str = "") -> str:
        return "a name"

    def allows(self, value: Any) -> bool:
        return bool(value)


_EPOCHS = re.compile(r"(\d+\.?\d*|\.\d+) ?epochs?")


@dataclass(frozen=True)
class Interval(Rule):
    """A number of steps, or a number of epochs as a word such as "0.5epoch".

    word: a further value.
    """

    lowest: int
    word: str | None = None

    def description(self, prefix: str = "") -> str:
        return f"{f'{self.word}, or ' if self.word else ''}at least {self.lowest} steps, or epochs such as 0.5epoch"

    def allows(self, value: Any) -> bool:
        if isinstance(value, str):
            return value == self.word or bool(epochs_of(value))
        return bool(value >= self.lowest)


def epochs_of(value: int | str) -> float | None:
    """The number of epochs that an interval names; None for one in steps."""
    named = _EPOCHS.fullmatch(value) if isinstance(value, str) else None
    return float(named[1]) if named else None


SET = object()
"""For `OnlyWith`: any value except None, 0, False and empty ones."""


class OnlyWith(Rule):
    """An option that is only used if other options of the same configuration have certain values.

    OnlyWith(sampler="ddim"), OnlyWith(kind=("fixed", "adaptive")), OnlyWith(image=SET). Otherwise the option must keep
    its default: an option without an effect is refused.
    """

    def __init__(self, **required: Any) -> None:
        self.required = {key: value if isinstance(value, tuple) else (value,) for key, value in required.items()}

    def description(self, prefix: str = "") -> str:
        return "only with " + " and ".join(self._condition(key, prefix) for key in self.required)

    def _condition(self, key: str, prefix: str) -> str:
        values = self.required[key]
        return f"{prefix}{key}" if values == (SET,) else f"{prefix}{key} {' or '.join(map(str, values))}"

    def holds(self, options: Any) -> bool:
        """Whether `options` have the values that this option needs."""
        return all(
            bool(getattr(options, key)) if values == (SET,) else getattr(options, key) in values
            for key, values in self.required.items()
        )


@dataclass(frozen=True)
class MayChange(Rule):
    """A resumed run may change this option without becoming another run."""


@dataclass(frozen=True)
class Formerly(Rule):
    """The option's earlier name: an old run.yaml is migrated, and an old flag is refused with the present name.

    note: what the option's value means now, if that has changed too; its configuration then converts stored values
        (`migrated`).
    """

    name: str
    note: str = ""


@dataclass(frozen=True)
class AddedLater(Rule):
    """The option is younger than some stored configurations; those that lack only such options have this value."""

    value: Any


class Example(Rule):
    """Another value of the option with which a run of a few steps gives other results.

    The tests train with it. Options of which the other bool, another member of a Literal, or a doubled number is enough
    have none.

    with_: the values of other options that make it take effect, by dotted names: of the same configuration, or after
        "run." of the whole run. The option's own name is the value to compare with (by default that of the recipe).
    """

    def __init__(self, value: Any, **with_: Any) -> None:
        self.value, self.with_ = value, with_


Place = Literal[
    "background",
    "checkpoints",
    "computation",
    "costs",
    "device",
    "files",
    "identity",
    "progress",
    "sampling",
    "threads",
]


@dataclass(frozen=True)
class Affects(Rule):
    """The option changes neither the journal nor a tensor, and takes effect elsewhere.

    place: "background": commands that run in background processes. "checkpoints": which are saved and retained.
        "computation": number of forward passes. "costs": the `time` of journal lines. "device": where the run computes.
        "files": other files in the run folder. "identity": which runs may continue the run. "progress": printed lines.
        "sampling": samples of requests. "threads": names of threads.
    """

    place: Place


@cache
def rules(kind: Any) -> dict[str, tuple[Rule, ...]]:
    """The rules of each field of a dataclass, by the field's name."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: tuple(part for part in _metadata(hints[f.name]) if isinstance(part, Rule)) for f in fields(kind)}


def rules_of(options: Any) -> dict[str, tuple[Rule, ...]]:
    """The rules of the fields of a configuration."""
    kind: Any = type(options)
    return rules(kind)


def _metadata(hint: Any) -> tuple[Any, ...]:
    """The metadata of a type, also inside a union: `Annotated[int, AtLeast(1)] | None`."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[1:]
    if get_origin(hint) in (Union, UnionType):
        return tuple(part for member in get_args(hint) for part in _metadata(member))
    return ()


def default(field: "Field[Any]") -> Any:
    """A field's default value; MISSING if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def check(options: Any, prefix: str = "") -> None:
    """Enforce the rules of a configuration's fields. prefix: precedes its keys, such as "optimizer.".

    Raises UserError naming the key, the value and the rule.
    """
    for field in fields(options):
        name, value = f"{prefix}{field.name}", getattr(options, field.name)
        for rule in rules_of(options)[field.name]:
            if isinstance(rule, OnlyWith):
                if value != default(field) and not rule.holds(options):
                    needed = rule.description(prefix).removeprefix("only with ")
                    raise UserError(f"{name} ({value}) has no effect without {needed}: leave it out.", option=name)
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not rule.allows(number):
                    shown = number if number != "" else "empty"
                    raise UserError(f"{name} must be {rule.description()}, not {shown}.", option=name)


def refuse_unused(options: Any, name: str, reason: str, prefix: str = "") -> None:
    """Raise UserError if an option differs from its default although it has no effect.

    reason: why, as a clause that follows "because". prefix: precedes the option's name.
    """
    value = getattr(options, name)
    if value != default(next(field for field in fields(options) if field.name == name)):
        raise UserError(f"{prefix}{name} ({value}) has no effect, because {reason}: leave it out.")


def walk(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, "Field[Any]", tuple[Rule, ...]]]:
    """Every field of nested configurations: its dotted name, the configuration that has it, the field, its rules."""
    for field in fields(options):
        yield f"{prefix}{field.name}", options, field, rules_of(options)[field.name]
        inner = getattr(options, field.name)
        if is_dataclass(inner):
            yield from walk(inner, f"{prefix}{field.name}.")


def classes(options: Any) -> dict[str, str]:
    """The class of each configuration that a configuration contains, as "module:class", by its dotted name."""
    inner = {name: type(getattr(owner, field.name)) for name, owner, field, _ in walk(options)}
    return {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in inner.items() if is_dataclass(kind)}


def may_change(options: Any) -> frozenset[str]:
    """The dotted names of the options that a resumed run may change."""
    return frozenset(name for name, _, _, found in walk(options) if any(isinstance(rule, MayChange) for rule in found))


def renamed(kind: type) -> dict[str, str]:
    """The present name of each renamed field of a dataclass, by its earlier name."""
    return {rule.name: name for name, found in rules(kind).items() for rule in found if isinstance(rule, Formerly)}


def describe(kind: type, name: str) -> str:
    """The limits of a field in words, for `--help`: "at least 1; only with sampler ddim"."""
    return "; ".join(words for rule in rules(kind)[name] if (words := rule.description()))
