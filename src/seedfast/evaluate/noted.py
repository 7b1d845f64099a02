"""The numbers of a run, measured once: each result is noted in the cache under all that it depends on,
the code of seedfast among it. A comparison keeps its notes, an evaluation until it is finished."""

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch

from seedfast.console import say
from seedfast.data.notes import Note
from seedfast.errors import UserError
from seedfast.evaluate.bits_per_dimension import BitsPerDimension, ImageBound
from seedfast.evaluate.bracket import Bracket
from seedfast.evaluate.caption_quality import CaptionQuality
from seedfast.evaluate.deployed import Deployed, DeployedLikelihood
from seedfast.evaluate.evaluator import Evaluation, Evaluator, OwnMetric, Result, evaluate
from seedfast.evaluate.fidelity import Fidelity
from seedfast.evaluate.frontier import TEMPERATURES, Frontier, FrontierResult
from seedfast.evaluate.loss import Likelihood, Loss
from seedfast.evaluate.pairing import Cut, Scored
from seedfast.evaluate.speed import Speed, Timed, timed
from seedfast.evaluate.trained import Trained
from seedfast.families.generator import Request
from seedfast.families.measure import Measure
from seedfast.families.text.request import TextSamples
from seedfast.files import finite
from seedfast.loop.validate import SourceScore

KEPT = "What is measured is kept, and the same command continues."


@dataclass(frozen=True, kw_only=True)
class Options:
    """How runs are measured; None: as `seedfast evaluate` does.

    only: some of `METRICS` (default: all that fit). judge: for the frontiers of texts, which are left out without one.
    draws: of bounds. windows: for the lower bound and deployed. samples: of a point of a frontier, or the images of a
    Fréchet distance. temperatures: of a frontier.
    """

    only: tuple[str, ...] = ()
    draws: int | None = None
    windows: int | None = None
    judge: Trained | None = None
    samples: int | None = None
    temperatures: tuple[float, ...] = TEMPERATURES


def _loss(model: Trained, options: Options) -> Evaluator:
    return Loss(draws=None if model.family.evaluated.measure.draws is None else options.draws)


def is_judge(model: Trained, by: Trained) -> bool:
    """Whether a model is the judge itself, which is no measure of its own text."""
    return model.committed.manifest.seal == by.committed.manifest.seal and model.weights == by.weights


def _frontier(model: Trained, options: Options) -> Evaluator | None:
    by = options.judge
    if by is None or model.family.generator is None or is_judge(model, by):
        return None
    request = model.generator.Request()
    samples, temperatures = options.samples, options.temperatures
    return Frontier(by=by, request=request, samples=samples, temperatures=temperatures)


def _fidelity(_: Trained, options: Options) -> Evaluator:
    usual = Fidelity()
    return usual if options.samples is None else Fidelity(request=replace(usual.request, num=options.samples))


METRICS: Mapping[str, Callable[[Trained, Options], Evaluator | None]] = {
    "loss": _loss,
    "bracket": lambda _, options: Bracket(windows=options.windows),
    "deployed": lambda _, options: Deployed(windows=options.windows),
    "bits_per_dimension": lambda _, options: ImageBound(draws=options.draws),
    "speed": lambda _, __: Speed(),
    "frontier": _frontier,
    "fidelity": _fidelity,
    "captions": lambda _, __: CaptionQuality(),
}
"""What can be measured of a run, in the order in which it is."""


@dataclass(frozen=True)
class Noted:
    """The record of a metric, and the totals of the windows that it is a ratio of, where it has some."""

    record: Mapping[str, Any]
    totals: tuple[float, ...] = ()
    examples: tuple[int, ...] | None = None

    def scored(self, cut: Cut) -> Scored:
        """The totals as windows of a split that is cut so."""
        examples = np.arange(len(self.totals)) if self.examples is None else np.array(self.examples, np.int64)
        return Scored(np.array([np.inf if each is None else each for each in self.totals]), examples, cut)


def measured(name: str, model: Trained, options: Options) -> dict[str, Noted]:
    """The metrics that are wanted and fit a run, by name; from the cache where they are known."""
    found: dict[str, Noted] = {}
    for metric, evaluator_of in METRICS.items():
        evaluator = evaluator_of(model, options) if metric in (options.only or METRICS) else None
        if evaluator is None or evaluator.fits(model) is not None:
            continue
        note = _note(model, metric, evaluator)
        if (known := note.read()) is None:
            say(f"{name}: {metric.replace('_', ' ')}")
            if isinstance(evaluator, Bracket) and "loss" in found:
                evaluator = replace(evaluator, loss=_likelihood(model, found["loss"]))
            known = _plain(evaluator, model)
            note.write(known)
        examples = known["examples"]
        found[metric] = Noted(known["record"], tuple(known["totals"]), None if examples is None else tuple(examples))
    return found


@dataclass(frozen=True)
class _Noted:
    """A result that was noted: its record, and its lines for a terminal."""

    values: Mapping[str, Any]
    lines: Sequence[str]

    def record(self) -> dict[str, Any]:
        return dict(self.values)

    def table(self) -> list[str]:
        return list(self.lines)


def evaluated(model: Trained, only: Iterable[str], options: Mapping[str, Any]) -> Evaluation:
    """`evaluate`, in which a metric that was finished before an interruption is not measured again."""
    notes: list[Note] = []

    def measure(evaluator: Evaluator, model: Trained) -> Result:
        if isinstance(evaluator, OwnMetric) or model.checkpoint is None:  # they depend on what no note knows
            return evaluator(model)
        note = _note(model, f"evaluation, {evaluator.name}", evaluator)
        notes.append(note)
        if (known := note.read()) is not None:
            if isinstance(evaluator, Loss):
                return _likelihood(model, Noted(known["record"], tuple(known["totals"])))
            return _Noted(known["record"], known["table"])
        result = evaluator(model)
        totals = result.totals if isinstance(result, Likelihood) else ()
        note.write(finite({"record": result.record(), "table": result.table(), "totals": totals}))
        return result

    try:
        found = evaluate(model, only, options, measure=measure)
    except KeyboardInterrupt:
        say(KEPT)
        raise
    for note in notes:
        note.file.unlink(missing_ok=True)
    return found


def frontier(model: Trained, evaluator: Frontier) -> FrontierResult:
    """The frontier of a model's samples, in which what was sampled before an interruption is not sampled again."""
    if model.checkpoint is None:
        return evaluator(model)
    notes: list[Note] = []

    def draw(model: Trained, request: Request, seed: int) -> Timed:
        note = Note.of("measured", "samples", *_of(model), repr(request), seed, *_here(model), *_timing())
        notes.append(note)
        if (known := note.read()) is not None:
            return Timed(TextSamples(**known.pop("samples")), **known)
        taken = timed(model, request, seed)
        if isinstance(taken.samples, TextSamples):
            texts = {name: getattr(taken.samples, name) for name in ("texts", "tokens", "pieces", "fixed")}
            note.write({**vars(taken), "samples": texts})
        return taken

    try:
        found = evaluator(model, draw)
    except KeyboardInterrupt:
        if notes:
            say(KEPT)
        raise
    for note in notes:
        note.file.unlink(missing_ok=True)
    return found


def _note(model: Trained, metric: str, evaluator: Evaluator) -> Note:
    """The note of a metric: its name is a hash of all that the numbers depend on."""
    names = [f.name for f in fields(cast("Any", evaluator)) if f.name != getattr(evaluator, "builds_on", "")]
    options = {name: repr(getattr(evaluator, name)) for name in names}
    if isinstance(evaluator, Frontier):
        options["by"] = f"{evaluator.by.committed.manifest.seal} {evaluator.by.weights}"
    where = [*_here(model), model.committed.fingerprint.digest]
    if metric in ("speed", "frontier"):
        where += _timing()
    return Note.of("measured", metric, *_of(model), options, *where)


def _of(model: Trained) -> list[Any]:
    """What tells the weights of a model from others."""
    return [model.committed.manifest.seal, model.weights]


def _here(model: Trained) -> list[str]:
    """What numbers are computed by."""
    return [torch.__version__, str(model.distributed.device)]


def _timing() -> list[str]:
    """What times depend on besides."""
    return [platform.node(), str(torch.get_num_threads())]


def _plain(evaluator: Evaluator, model: Trained) -> dict[str, Any]:
    """The result of a metric as JSON values. Of a frontier whose samples the judge cannot read, the reason."""
    totals: tuple[float, ...] = ()
    examples = None
    try:
        result = frontier(model, evaluator) if isinstance(evaluator, Frontier) else evaluator(model)
    except UserError as error:
        if not isinstance(evaluator, Frontier):
            raise
        return {"record": {"reason": str(error)}, "totals": (), "examples": None}
    if isinstance(result, Likelihood | DeployedLikelihood | BitsPerDimension):
        totals = result.totals
    if isinstance(result, DeployedLikelihood):
        examples = result.examples
    plain: dict[str, Any] = finite({"record": result.record(), "totals": totals, "examples": examples})
    return plain


def _likelihood(model: Trained, noted: Noted) -> Likelihood:
    """A noted loss as it was measured."""
    evaluated = _stored(model, noted.record, model.family.evaluated.measure)
    of_training = noted.record.get("objective")
    trained_on = None if of_training is None else _stored(model, of_training, model.family.objective.measure)
    return replace(evaluated, totals=noted.totals, trained_on=trained_on)


def _stored(model: Trained, record: Mapping[str, Any], measure: Measure) -> Likelihood:
    """The loss with this record."""
    sources = {name: SourceScore(**_numbers(each)) for name, each in record.get("sources", {}).items()}
    return Likelihood(
        loss=_number(record[measure.per_weight]),
        standard_error=_number(record["standard_error"]),
        measure=measure,
        weight=record[measure.weight_unit],
        examples=record["examples"],
        draws=record["draws"],
        weights=model.weights,
        step=model.step,
        bytes=record.get("bytes"),
        blocks=record.get("blocks"),
        diagnostics=_numbers(record.get("diagnostics", {})),
        sources=sources,
    )


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in record.items()}


def _number(value: float | None) -> float:
    """A number of a record, in which one that is not finite is None."""
    return math.nan if value is None else value
