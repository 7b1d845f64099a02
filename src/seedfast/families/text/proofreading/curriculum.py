"""Curricula: options that move during training, each a pure function of the step."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from seedfast.errors import UserError

O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that moves in a straight line from `start` to `end` over the first `steps`, and then stays."""

    end: float
    """Its value after the ramp: what validation and sampling use."""
    start: float | None = None
    """Its value at step 0 (None: there is no ramp)."""
    steps: int = 0
    """The ramp's length."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"A ramp's steps cannot be {self.steps}.")
        if (self.start is None) != (self.steps == 0):
            raise UserError(
                f"A ramp needs both a start and steps, or neither (start {self.start}, steps {self.steps}): "
                "without a ramp the value is its end all the time."
            )

    @property
    def values(self) -> tuple[float, float]:
        """Where it begins and where it ends; it never leaves what lies between."""
        return (self.end if self.start is None else self.start, self.end)

    def at(self, step: int) -> float:
        """Its value at a step of training."""
        if self.start is None or step >= self.steps:
            return self.end
        value = self.start + (self.end - self.start) * (step / self.steps)
        return min(max(value, min(self.values)), max(self.values))  # rounding may not carry it beyond either end


def resolved(options: O, step: int) -> O:
    """Options in which each ramp, at any depth, stands still at its value of this step."""
    still: dict[str, Any] = {}
    for f in fields(options):  # type: ignore[arg-type]
        value = getattr(options, f.name)
        if isinstance(value, Ramp):
            still[f.name] = Ramp(end=value.at(step))
        elif is_dataclass(value):
            still[f.name] = resolved(value, step)
    return replace(options, **still)  # type: ignore[type-var]


def moving(options: Any) -> dict[str, Ramp]:
    """The ramps that move, by their names without the groups they stand in."""
    found: dict[str, Ramp] = {}
    for f in fields(options):
        value = getattr(options, f.name)
        if isinstance(value, Ramp) and value.steps:
            found[f.name] = value
        elif is_dataclass(value) and not isinstance(value, Ramp):
            found |= moving(value)
    return found
