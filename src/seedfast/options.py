"""Rules of options, written once: in the type of the field.

    width: Annotated[int, AtLeast(1)] = 128
    eta: Annotated[float | None, Between(0, 1), OnlyWith(sampler="ddim")] = None

`check` enforces them when a configuration is built, `describe` puts them into `--help`, and the tests read them too.
"""

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from seedfast.errors import UserError


class Rule:
    """What an option's type says about it beside its Python type."""

    def description(self, prefix: str = "") -> str:
        """The rule as it continues the sentence "KEY must be …", or "" for a rule that is no limit."""
        return ""

    def allows(self, value: Any) -> bool:
        """Whether a single number satisfies the rule; None, which stands for a default, is never asked."""
        return True


@dataclass(frozen=True)
class AtLeast(Rule):
    """A closed lower limit."""

    lowest: float

    def description(self, prefix: str = "") -> str:
        return f"at least {self.lowest:g}"

    def allows(self, value: Any) -> bool:
        return bool(value >= self.lowest)


@dataclass(frozen=True)
class MoreThan(Rule):
    """An open lower limit."""

    limit: float

    def description(self, prefix: str = "") -> str:
        return "positive" if self.limit == 0 else f"more than {self.limit:g}"

    def allows(self, value: Any) -> bool:
        return bool(value > self.limit)


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


SET = object()
"""For `OnlyWith`: any value but None, 0, False or nothing."""


class OnlyWith(Rule):
    """An option that is only used if other options of the same configuration have certain values.

    OnlyWith(sampler="ddim"), OnlyWith(kind=("fixed", "adaptive")), OnlyWith(image=SET). Elsewhere the option must keep
    its default, so that nobody sets what has no effect.
    """

    def __init__(self, **wanted: Any) -> None:
        self.wanted = {key: value if isinstance(value, tuple) else (value,) for key, value in wanted.items()}

    def description(self, prefix: str = "") -> str:
        return "only with " + " and ".join(self._condition(key, prefix) for key in self.wanted)

    def _condition(self, key: str, prefix: str) -> str:
        values = self.wanted[key]
        return f"{prefix}{key}" if values == (SET,) else f"{prefix}{key} {' or '.join(map(str, values))}"

    def holds(self, options: Any) -> bool:
        """Whether `options` have the values that this option needs."""
        return all(
            bool(getattr(options, key)) if values == (SET,) else getattr(options, key) in values
            for key, values in self.wanted.items()
        )


@dataclass(frozen=True)
class MayChange(Rule):
    """A continued run may change this option: it keeps the meaning of the run."""


@dataclass(frozen=True)
class Formerly(Rule):
    """The option's earlier name: an old run.yaml is migrated, an old flag is answered with the new one."""

    name: str


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
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def default(field: "Field[Any]") -> Any:
    """A field's default value, or MISSING."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def check(options: Any, prefix: str = "") -> None:
    """Enforce the rules of a configuration's fields. `prefix` is what stands before its keys, such as "optimizer.".

    Raises UserError naming the key, the value and the rule.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        for rule in rules_of(options)[field.name]:
            if isinstance(rule, OnlyWith):
                if value != default(field) and not rule.holds(options):
                    needed = rule.description(prefix).removeprefix("only with ")
                    raise UserError(f"{prefix}{field.name} ({value}) has no effect without {needed}: leave it out.")
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not rule.allows(number):
                    raise UserError(f"{prefix}{field.name} must be {rule.description()}, not {number}.")


def walk(options: Any, prefix: str = "") -> Iterator[tuple[str, Any, "Field[Any]", tuple[Rule, ...]]]:
    """Every field of nested configurations: its dotted name, the configuration that has it, the field, its rules."""
    for field in fields(options):
        yield f"{prefix}{field.name}", options, field, rules_of(options)[field.name]
        inner = getattr(options, field.name)
        if is_dataclass(inner):
            yield from walk(inner, f"{prefix}{field.name}.")


def may_change(options: Any) -> frozenset[str]:
    """The dotted names of the options that a continued run may change."""
    return frozenset(name for name, _, _, found in walk(options) if any(isinstance(rule, MayChange) for rule in found))


def renamed(kind: type) -> dict[str, str]:
    """The earlier names of a dataclass's fields, each with the present one."""
    return {rule.name: name for name, found in rules(kind).items() for rule in found if isinstance(rule, Formerly)}


def describe(kind: type, name: str) -> str:
    """The limits of a field in words, for `--help`: "at least 1; only with sampler ddim"."""
    return "; ".join(words for rule in rules(kind)[name] if (words := rule.description()))
