"""The options of all recipes, each with another value that must show: from its rules, or the next value of its type."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seedfast.loop.config import Run
from seedfast.loop.plain_config import from_mapping
from seedfast.options import SET, Affects, Example, OnlyWith, Place, Rule, rules, walk


@dataclass(frozen=True)
class Option:
    """A field of a configuration at one place of a recipe's run. name: its dotted name in the run."""

    recipe: str
    name: str
    kind: type
    field: str

    @property
    def id(self) -> str:
        """A name for people: of the test, and in messages."""
        return f"{self.recipe}-{self.name}"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in the type of the field."""
        return rules(self.kind)[self.field]

    @property
    def example(self) -> Example | None:
        """The other value that the field names."""
        return next((rule for rule in self.rules if isinstance(rule, Example)), None)

    @property
    def place(self) -> Place | None:
        """Where the option takes effect, if not in the journal or the tensors."""
        return next((rule.place for rule in self.rules if isinstance(rule, Affects)), None)

    @property
    def dependencies(self) -> list[OnlyWith]:
        """The rules about the other options that it needs."""
        return [rule for rule in self.rules if isinstance(rule, OnlyWith)]

    @property
    def conditions(self) -> dict[str, Any]:
        """The values, by dotted names in the run, of the options that make this one take effect."""
        needed = {key: values[0] for rule in self.dependencies for key, values in rule.required.items()}
        needed |= self.example.with_ if self.example else {}
        assert SET not in needed.values(), f"{self.id} needs an Example with the options that it depends on"
        return {self._absolute(key): value for key, value in needed.items()}

    def _absolute(self, name: str) -> str:
        """The dotted name in the run of another option of the same configuration."""
        prefix = self.name.removesuffix(self.field)
        return name.removeprefix("run.") if name.startswith("run.") else f"{prefix}{name}"

    def owner(self, run: Run) -> Any:
        """The configuration that has the field."""
        value: Any = run
        for part in self.name.split(".")[:-1]:
            value = getattr(value, part)
        return value

    def value(self, run: Run) -> Any:
        """The value of the option in a run."""
        return getattr(self.owner(run), self.field)

    def another_value(self, run: Run) -> Any:
        """The example, or the next value of the type."""
        value = self.value(run)
        other = self.example.value if self.example else self._next_value(value)
        assert other != value, f"{self.id} is {value} already: its Example must be another value"
        return other

    def _next_value(self, value: Any) -> Any:
        """The other bool, another member of a Literal, or the number doubled (1 instead of 0), halved or 0.5."""
        hint = get_type_hints(self.kind)[self.field]
        members = [member for part in _union(hint) if get_origin(part) is Literal for member in get_args(part)]
        if isinstance(value, bool):
            return not value
        if members:
            return next(member for member in members if member != value)
        assert isinstance(value, int | float), f"{self.id} is {value!r} of type {hint}: it needs an Example"
        half = value // 2 if isinstance(value, int) else value / 2
        numbers = [number for number in (2 * value or type(value)(1), half, 0.5) if number != value]
        return next(number for number in numbers if all(rule.allows(number) for rule in self.rules))


def _union(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def options_of(runs: Mapping[str, Run]) -> Iterator[Option]:
    """Every option of these runs, by recipe; the same field of the same configuration in the same place once."""
    found = set[tuple[Any, ...]]()
    for recipe, run in runs.items():
        owners = {"": ()}
        for name, owner, field, _ in walk(run):
            prefix = name.removesuffix(field.name)
            if is_dataclass(getattr(owner, field.name)):
                # A part of a part, such as one of two transformers, is another place than a part of the run.
                owners[f"{name}."] = (type(owner), field.name) if owner is not run else ()
                continue
            identity = (*owners[prefix], type(owner), field.name)
            if identity not in found:
                found.add(identity)
                yield Option(recipe, name, type(owner), field.name)


def changed(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with other values of options, by their dotted names."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        inner = nested
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return from_mapping(run, nested, where="the test")
