"""Curricula: options that change during training, each a pure function of the step."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar

from seedfast.errors import UserError
from seedfast.options import AtLeast, Example

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that moves linearly from `start` to `end` over the first `steps`, and stays there."""

    end: Annotated[float, Example(0.6, start=0.5, end=1.0, steps=4)]
    """The value after the ramp, which validation and sampling use."""
    start: Annotated[float | None, Example(0.9, start=0.5, end=1.0, steps=4)] = None
    """The value at step 0 (None: no ramp)."""
    steps: Annotated[int, AtLeast(0), Example(8, start=0.5, end=1.0, steps=4)] = 0
    """The ramp's length."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"The steps of a ramp must be at least 0, not {self.steps}.")
        if (self.start is None) != (self.steps == 0):
            raise UserError(
                f"A ramp needs both a start and steps, or neither (start {self.start}, steps {self.steps}): "
                "without a ramp the value is its end from the first step on."
            )

    @property
    def values(self) -> tuple[float, float]:
        """The first and the last value; all others lie between them."""
        return (self.end if self.start is None else self.start, self.end)

    def value(self, step: int) -> float:
        """The value at a training step."""
        if self.start is None or step >= self.steps:
            return self.end
        value = self.start + (self.end - self.start) * (step / self.steps)
        return min(max(value, min(self.values)), max(self.values))  # rounding may not carry it beyond either end


def resolved(options: OptionsT, step: int) -> OptionsT:
    """The options with each ramp, at any depth, replaced by its constant value at this step."""
    constant: dict[str, Any] = {}
    for f in fields(options):  # type: ignore[arg-type]
        value = getattr(options, f.name)
        if isinstance(value, Ramp):
            constant[f.name] = Ramp(end=value.value(step))
        elif is_dataclass(value):
            constant[f.name] = resolved(value, step)
    return replace(options, **constant)  # type: ignore[type-var]


def ramps(options: Any) -> dict[str, Ramp]:
    """The ramps of the options that change, at any depth, by the name of their field."""
    found: dict[str, Ramp] = {}
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, Ramp) and value.steps:
            found[f.name] = value
        elif is_dataclass(value) and not isinstance(value, Ramp):
            found |= ramps(value)
    return found
