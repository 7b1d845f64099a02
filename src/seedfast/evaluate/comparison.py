"""Several runs on the same validation data: what each is worth, what it took, and how it differs from the best.

Every number of a run is noted in the cache (`noted.py`): an interrupted comparison continues where it was, and of runs
that were compared before, only what is new is measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedfast.data.dataset import describe_difference
from seedfast.errors import UserError
from seedfast.evaluate.effort import effort
from seedfast.evaluate.evaluator import no_validation
from seedfast.evaluate.held_out import HeldOut, first_difference
from seedfast.evaluate.judge import likelihood
from seedfast.evaluate.noted import METRICS, Noted, Options, is_judge, measured
from seedfast.evaluate.pairing import Cut, Difference, Scored, difference, independent
from seedfast.evaluate.trained import Trained
from seedfast.files import finite
from seedfast.loop.config import changes
from seedfast.loop.standard_error import ratio_of_sums

_SAME_BYTES = ("tokenizer", "vocabulary", "context", "prompt", "one_document_per_window", "date", "balance")
"""Options of the data that change no byte of its validation split."""
_WHAT = {"text": "document", "image": "image", "caption": "captioned image"}


@dataclass(frozen=True)
class Value:
    """A number per byte (of images: per dimension) with its standard error. is_bound: from above."""

    value: float
    standard_error: float
    is_bound: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run of a comparison.

    value: its bits per byte (of images: per dimension). deployed: the exact likelihood of its sampler. difference,
    deployed_difference: to the best run; None for the best itself, and where there is none. effort: of its training.
    metrics: the records of all that was measured, by metric.
    """

    name: str
    origin: str
    recipe: str
    effort: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    value: Value | None = None
    deployed: Value | None = None
    difference: Difference | None = None
    deployed_difference: Difference | None = None

    @property
    def lower(self) -> Value | None:
        """The bound from below."""
        record = self.metrics.get("bracket", {})
        return None if record.get("lower") is None else _value(record["lower"], record["lower_standard_error"])

    def record(self) -> dict[str, Any]:
        """As JSON values; null where there is no number."""
        numbers = {
            name: None if each is None else finite(asdict(each))
            for name, each in {
                "value": self.value,
                "lower": self.lower,
                "deployed": self.deployed,
                "difference": self.difference,
                "deployed_difference": self.deployed_difference,
            }.items()
        }
        named = {"run": self.name, "origin": self.origin, "recipe": self.recipe}
        return {**named, **numbers, "effort": dict(self.effort), "metrics": finite(self.metrics)}


@dataclass(frozen=True, kw_only=True)
class ComparedRuns:
    """Runs on the same validation data.

    kind: of its examples: "text", "image" or "caption". digest, size, count: of the data (see `HeldOut`). unit: of the
    values. best, best_deployed: the names of the runs that the others are compared with; "" where nothing was measured.
    judge: of the frontiers. is_judge: the run that is the judge itself, and has no frontier; "" for none.
    """

    kind: str
    unit: str
    digest: str
    size: int
    count: int
    rows: tuple[Row, ...]
    best: str
    best_deployed: str
    judge: str | None = None
    is_judge: str = ""

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        data = {"kind": self.kind, "sha256": self.digest, "bytes": self.size, "count": self.count}
        named = {"unit": self.unit, "best": self.best or None, "best_deployed": self.best_deployed or None}
        return {"validation": data, **named, "judge": self.judge, "runs": [each.record() for each in self.rows]}


def compare(models: Mapping[str, Trained], options: Options) -> ComparedRuns:
    """Compare runs by their names.

    Raises UserError for fewer than two, for different validation data, and for a metric that fits none of them.
    """
    if len(models) < 2:
        raise UserError("A comparison needs two runs at least: seedfast compare RUN RUN …")
    for metric in options.only:
        if metric not in METRICS:
            raise UserError(f"There is no metric called {metric} to compare; there are {', '.join(METRICS)}.")
    if options.judge is not None:
        likelihood(options.judge)  # refused before anything is measured
    held_out = {name: _held_out(name, model) for name, model in models.items()}
    for one, other in pairwise(held_out):
        refuse_other_bytes((one, models[one], held_out[one]), (other, models[other], held_out[other]))
    kind = next(iter(held_out.values())).kind
    if options.judge is not None and kind != "text":
        raise UserError(f"These are models of {kind}s, which no judge scores: leave --judge out.")
    if options.samples and options.judge is None and kind != "image":
        raise UserError(f"--samples has no effect without --judge RUN for models of {kind}s: leave it out.")
    found = {name: measured(name, model, options) for name, model in models.items()}
    for metric in options.only:
        if not any(metric in each for each in found.values()):
            remedy = "name a judge with --judge" if metric == "frontier" and options.judge is None else "leave it out"
            raise UserError(f"The metric {metric} fits none of these runs: {remedy}.")
    cuts = {name: each.cut for name, each in held_out.items()}
    values = _compared({name: _values(found[name], cut) for name, cut in cuts.items()})
    has_deployed = any("deployed" in each for each in found.values())
    deployed = _compared({name: _deployed(found[name], cut) for name, cut in cuts.items()} if has_deployed else {})
    rows = tuple(
        Row(
            name=name,
            origin=model.origin,
            recipe=model.run.recipe,
            effort=effort(model).record(),
            metrics={metric: each.record for metric, each in found[name].items()},
            value=values.of.get(name),
            deployed=deployed.of.get(name),
            difference=values.differences.get(name),
            deployed_difference=deployed.differences.get(name),
        )
        for name, model in models.items()
    )
    first = next(iter(held_out.values()))
    return ComparedRuns(
        kind=kind,
        unit="bits per dimension" if kind == "image" else "bits per byte",
        digest=first.digest,
        size=first.size,
        count=first.count,
        rows=rows,
        best=values.best,
        best_deployed=deployed.best,
        judge=None if options.judge is None else options.judge.origin,
        is_judge=next((name for name, each in models.items() if options.judge and is_judge(each, options.judge)), ""),
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """A name for each run: that of its folder, or as much of its path as tells it from the others.

    Raises UserError for a run that is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"{folders[number]} is named twice: name each run once.")
    longest = max((len(path.parts) for path in paths), default=1)
    for count in range(1, longest + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def counted(kind: str, count: int) -> str:
    """A number of examples in words, such as "3 documents"."""
    return f"{count:,} {_WHAT[kind]}{'' if count == 1 else 's'}"


def _held_out(name: str, model: Trained) -> HeldOut:
    if reason := no_validation(model):
        raise UserError(f"{name}: {reason}")
    return HeldOut(model.corpus)


def refuse_other_bytes(one: tuple[str, Trained, HeldOut], other: tuple[str, Trained, HeldOut]) -> None:
    """Raise UserError for two runs that are validated on different data, with how it differs."""
    (name, model, left), (other_name, other_model, right) = one, other
    if left.kind != right.kind:
        raise UserError(
            f"{name} is a model of {left.kind}s and {other_name} of {right.kind}s, which have no numbers in common."
        )
    if left.digest == right.digest:
        return
    place = first_difference(left, right)
    assert place is not None
    sizes = [
        f"{each.size:,} bytes in {counted(each.kind, each.count)} (sha256 {each.digest[:12]}…)"
        for each in (left, right)
    ]
    found = changes(model.run, other_model.run)
    options = {
        key: pair
        for key, pair in found.items()
        if key.startswith("data.") and key.removeprefix("data.") not in _SAME_BYTES
    }
    if options:
        why = "The options differ: " + "; ".join(f"{key} is {a} and {b}" for key, (a, b) in options.items())
    else:
        files = describe_difference(model.committed.fingerprint, other_model.committed.fingerprint)
        why = f"The options of the data agree, so the data has changed between the runs ({files})"
    raise UserError(
        f"{name} and {other_name} are validated on different data, so their numbers do not compare: {sizes[0]} and "
        f"{sizes[1]}. They first differ in {_WHAT[left.kind]} {place.document + 1}, at byte {place.byte:,}: "
        f"{place.one} and {place.other}. {why}."
    )


Summed = tuple[Value, Scored] | None
"""A value, and the windows that it is a ratio of."""


def _values(found: Mapping[str, Noted], cut: Cut) -> Summed:
    """The bits per byte of a run, or per dimension of images."""
    if (bound := found.get("bits_per_dimension")) is not None:
        return Value(bound.record["upper"], bound.record["upper_standard_error"], True), bound.scored(cut)
    loss = found.get("loss")
    if loss is None or not any(name.startswith("nats") for name in loss.record):
        return None  # the squared error of images depends on what their network predicts
    scored = _in_bits(loss.scored(cut))
    if "bits_per_byte" in loss.record:
        error = loss.record["bits_per_byte_standard_error"]
        return _value(loss.record["bits_per_byte"], error, loss.record["is_bound"]), scored
    value, error, _ = ratio_of_sums(torch.from_numpy(scored.totals_N), torch.from_numpy(cut.sizes_E.astype(np.float64)))
    return Value(value, error, loss.record["is_bound"]), scored


def _deployed(found: Mapping[str, Noted], cut: Cut) -> Summed:
    """The exact bits per byte of what a run's sampler writes: of an autoregressive model, its value."""
    if (deployed := found.get("deployed")) is not None:
        record = deployed.record
        return _value(record["deployed"], record["deployed_standard_error"]), _in_bits(deployed.scored(cut))
    own = _values(found, cut)
    return None if own is None or own[0].is_bound else own


def _value(value: float | None, error: float | None, is_bound: bool = False) -> Value:
    """A value of a record, in which None stands for a number that is not finite."""
    return Value(math.inf if value is None else value, math.nan if error is None else error, is_bound)


def _in_bits(scored: Scored) -> Scored:
    return Scored(scored.totals_N / math.log(2), scored.examples_N, scored.cut)


@dataclass(frozen=True)
class _Compared:
    """Values by the name of the run, the best of them, and the difference of each other one to it."""

    of: Mapping[str, Value]
    best: str
    differences: Mapping[str, Difference]


def _compared(found: Mapping[str, Summed]) -> _Compared:
    known = {name: each for name, each in found.items() if each is not None}
    finite_ones = {name: value for name, (value, _) in known.items() if math.isfinite(value.value)}
    best = min(finite_ones, key=lambda name: finite_ones[name].value, default="")
    differences = {}
    for name, value in finite_ones.items():
        if name != best:
            paired = difference(known[name][1], known[best][1])
            first, second = value, finite_ones[best]
            differences[name] = paired or independent(
                (first.value, first.standard_error), (second.value, second.standard_error)
            )
    return _Compared({name: value for name, (value, _) in known.items()}, best, differences)
