"""Metrics of trained models: one file each, and one way to run all that fit.

A metric is a frozen dataclass with its options as fields (an `Evaluator`), or a function of the user from a trained
model to numbers by name.
"""

import importlib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.files import finite
from seedfast.user_code import own_function


class Result(Protocol):
    """The outcome of a metric."""

    def record(self) -> dict[str, Any]:
        """As JSON values; a number that is not finite is None."""
        ...

    def table(self) -> list[str]:
        """As lines for a terminal."""
        ...


class Evaluator(Protocol):
    """A metric: a frozen dataclass whose fields are its options, each with a default.

    One with a class variable `builds_on` takes the result of that metric as the field of its name, if it was run.
    """

    name: ClassVar[str]

    def fits(self, model: Trained) -> str | None:
        """None where the metric applies to this model; otherwise the reason why not, as a sentence."""
        ...

    def __call__(self, model: Trained) -> Result:
        """Measure. Raises UserError on options that do not fit the model, or changed data."""
        ...


EVALUATORS = {
    "loss": "seedfast.evaluate.loss:Loss",
    "bracket": "seedfast.evaluate.bracket:Bracket",
    "deployed": "seedfast.evaluate.deployed:Deployed",
    "bits_per_dimension": "seedfast.evaluate.bits_per_dimension:ImageBound",
    "judge": "seedfast.evaluate.judge:Judge",
    "fidelity": "seedfast.evaluate.fidelity:Fidelity",
    "captions": "seedfast.evaluate.caption_quality:CaptionQuality",
}
"""Name → module:class, in the order in which they are run and shown."""
LIKELIHOODS = ("loss", "bracket", "deployed")
"""Metrics whose numbers have names of their own, so that they need not stand under the metric's."""


def evaluator_class(name: str) -> type[Evaluator]:
    """The class of a metric of `EVALUATORS`."""
    module, _, attribute = EVALUATORS[name].partition(":")
    return cast("type[Evaluator]", getattr(importlib.import_module(module), attribute))


@dataclass(frozen=True)
class Numbers:
    """The result of a metric that is a set of numbers by name."""

    values: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: finite(value) for name, value in self.values.items()}

    def table(self) -> list[str]:
        """As lines for a terminal."""
        return rows(self.record())


@dataclass(frozen=True)
class OwnMetric:
    """A function of the user, `path/to/file.py:function`: a trained model to numbers by name."""

    path: str
    name: ClassVar[str] = "own"

    def fits(self, model: Trained) -> str | None:
        """Every model."""
        return None

    def __call__(self, model: Trained) -> Numbers:
        """Call it. Raises UserError if it returns anything but numbers by name."""
        function = own_function(self.path)
        try:
            found = function.call(model)
        except UserError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise function.failure(error) from error
        if not isinstance(found, Mapping) or not all(isinstance(value, Real) for value in found.values()):
            raise UserError(
                f"{function.location} must return numbers by name, such as {{'length': 3.5}}, not {found!r}."
            )
        return Numbers({str(name): float(value) for name, value in found.items()})


@dataclass(frozen=True)
class Evaluation:
    """The results of several metrics of one model, by the metric's name."""

    results: Mapping[str, Result]
    weights: str
    step: int | None

    def record(self) -> dict[str, Any]:
        """Weights and step, the likelihood and its bounds, and the numbers of each other metric under its name."""
        values: dict[str, Any] = {"weights": self.weights, "step": self.step}
        for name, result in self.results.items():
            values |= result.record() if name in LIKELIHOODS else {name: result.record()}
        return values

    def table(self) -> list[str]:
        """One table below the other, each after the first under its name."""
        lines: list[str] = []
        for number, (name, result) in enumerate(self.results.items()):
            lines += ([""] if number else []) + ([f"{name}:"] if number or name != "loss" else []) + result.table()
        return lines


def chosen(model: Trained, only: Iterable[str], own: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    """The metrics that are named, or all that fit; `own` are those whose options are not the defaults.

    Raises UserError for a named metric that does not fit.
    """
    if not (names := tuple(only)):
        everything = {name: own.get(name) or evaluator_class(name)() for name in EVALUATORS}
        return {name: each for name, each in everything.items() if each.fits(model) is None}
    found: dict[str, Evaluator] = {}
    for name in names:
        if ":" in name:
            file, _, function = name.rpartition(":")
            names_of_it = (function, f"{Path(file).stem}.{function}", name)
            free = next((each for each in names_of_it if each not in {*EVALUATORS, *found}), name)
            found[free] = OwnMetric(name)
            continue
        found[name] = own.get(name) or evaluator_class(name)()
        if reason := found[name].fits(model):
            raise UserError(reason)
    return found


def _refuse_unknown(name: str) -> None:
    if ":" not in name and name not in EVALUATORS:
        near = get_close_matches(name, EVALUATORS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(EVALUATORS)}."
        raise UserError(f"There is no metric called {name}; {hint}")


def evaluate(
    model: Trained,
    only: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    measure: Callable[[Evaluator, Trained], Result] = lambda each, model: each(model),
) -> Evaluation:
    """Run the metrics that are named, or all that fit, with these options of the one metric that has them.

    measure: runs a metric. Raises UserError for an unknown metric or option.
    """
    names = tuple(only)
    if not names and (reason := no_validation(model)):
        raise UserError(reason)
    for name in names:
        _refuse_unknown(name)
    own: dict[str, Evaluator] = {}
    for option, value in (options or {}).items():
        owners = [name for name in names or EVALUATORS if name in EVALUATORS and option in _options(name)]
        if not owners:
            raise UserError(f"No metric has the option {option}; name the metric and one of its options.")
        for owner in owners:
            known: Any = own.get(owner) or evaluator_class(owner)()
            own[owner] = replace(known, **{option: value})
        reasons = [own[owner].fits(model) for owner in owners]
        if all(reasons):
            raise UserError(f"The option {option} ({value}) has no effect: {reasons[0]}")
    results: dict[str, Result] = {}
    for name, each in chosen(model, names, own).items():
        if (before := getattr(each, "builds_on", "")) in results:
            each = replace(cast("Any", each), **{before: results[before]})
        results[name] = measure(each, model)
    return Evaluation(results, weights=model.weights, step=model.step)


def no_validation(model: Trained) -> str | None:
    """The reason why a model cannot be measured on held-out data, as a sentence; None where it has some."""
    if len(model.corpus.validation):
        return None
    return (
        "This run has no validation data, so there is nothing to measure it on: train with a validation split "
        "(--data.validation), or name a metric that needs none with --only."
    )


def _options(name: str) -> set[str]:
    return {f.name for f in fields(evaluator_class(name))}  # type: ignore[arg-type]


def rows(record: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A record as lines of a name and a value, of at most 80 columns where the value is of several words."""
    lines: list[str] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            lines += rows(value, f"{prefix}{name}.")
            continue
        shown = f"{value:,.5f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
        line = f"{(prefix + name).replace('_', ' '):<30} {shown}"
        lines += textwrap.wrap(line, 80, subsequent_indent=" " * 31, break_long_words=False, break_on_hyphens=False)
    return lines
