"""The frontier of a model's samples under a judge: temperatures and numbers of steps, beside held-out text."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from seedfast.console import silenced, track
from seedfast.errors import UserError
from seedfast.evaluate.frontier_area import TextSums, area_of
from seedfast.evaluate.judge import (
    Judge,
    Judged,
    begun,
    given,
    held_out,
    likelihood,
    nats_of,
    passages_of,
    written_texts,
)
from seedfast.evaluate.passages import Passage, documents_among
from seedfast.evaluate.speed import Timed, step_counts, takes_steps, timed
from seedfast.evaluate.trained import Trained
from seedfast.families.generator import Request
from seedfast.families.text.base import TextGenerator
from seedfast.files import finite
from seedfast.loop.standard_error import ratio_of_sums
from seedfast.options import AtLeast, check
from seedfast.report.format import measured
from seedfast.report.frontier import PlottedCurve, PlottedPoint

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15)
_MOST, _FEWEST = 32, 8  # samples of a point
_BUDGET = 1 << 21  # tokens that the network reads for all points
_SETS = 4  # of as many held-out texts as there are samples


@dataclass(frozen=True)
class Point:
    """The samples of a decoding, as a judge scores them. rate: tokens per second."""

    temperature: float
    sums: TextSums
    rate: float

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"temperature": self.temperature, **_record(self.sums), "tokens_per_second": float(f"{self.rate:.4g}")}


@dataclass(frozen=True)
class Curve:
    """The points of one number of steps, by temperature, and the area of their frontier."""

    steps: int | None
    evaluations: int | None
    decoding: str
    points: tuple[Point, ...]
    area: float
    standard_error: float

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        named = {"steps": self.steps, "evaluations": self.evaluations, "decoding": self.decoding}
        areas = {"area": finite(self.area), "area_standard_error": finite(self.standard_error)}
        return {**named, **areas, "points": [each.record() for each in self.points]}


@dataclass(frozen=True)
class FrontierResult:
    """The frontier: a curve for each number of steps, the last one the model's own, and held-out text.

    judged: the samples of the request itself. guess: ln V of the judge, in nats. texts: samples of each point.
    """

    judged: Judged
    curves: tuple[Curve, ...]
    real: TextSums
    guess: float
    texts: int

    def record(self) -> dict[str, Any]:
        """As JSON values: those of the request itself, and the frontier."""
        own = self.curves[-1].record()
        frontier = {
            "area": own["area"],
            "area_standard_error": own["area_standard_error"],
            "texts": self.texts,
            "guess_nats_per_token": self.guess,
            "held_out": _record(self.real),
            "curves": [each.record() for each in self.curves],
        }
        return self.judged.record() | {"frontier": frontier}

    def plotted(self) -> list[PlottedCurve]:
        """The curves as a picture shows them."""
        return [plotted(each.record(), _record(self.real)) for each in self.curves]

    def table(self) -> list[str]:
        """As lines for a terminal, of at most 80 columns."""
        judged = self.judged
        of = "the same data" if judged.judge_of_same_data else "other data"
        lines = [
            f"judge {judged.judge}, trained on {of}",
            f"{self.texts} texts for each line; variety: nats by which they predict themselves",
            "",
            _LINE.format("evaluations", "temperature", "nats per token", "entropy", "repeated", "variety", "tokens/s"),
        ]
        for curve in self.curves:
            for point in curve.points:
                evaluations = "" if curve.evaluations is None else f"{curve.evaluations:,}"
                rate = f"{point.rate:,.0f}"
                lines.append(_LINE.format(evaluations, f"{point.temperature:g}", *_numbers(point.sums), rate))
        lines += [_LINE.format("held-out", "", *_numbers(self.real), ""), ""]
        for curve in self.curves:
            line = f"frontier area {measured(curve.area, curve.standard_error)}: {curve.decoding}"
            lines += textwrap.wrap(line, 80, subsequent_indent="  ")
        if judged.too_short:
            lines.append(f"too short to be scored: {judged.too_short} texts at the request's own temperature")
        if judged.cut_to is not None:
            lines.append(f"texts are cut to the {judged.cut_to} tokens that the judge can score")
        return [*lines, "0 is held-out text, smaller is better (docs/compare.md#frontier)"]


_LINE = "{:>11} {:>11} {:>16} {:>8} {:>9} {:>8} {:>9}"


def plotted(curve: Mapping[str, Any], real: Mapping[str, Any], name: str = "") -> PlottedCurve:
    """A curve by its record and that of held-out text. name: of the model, where there are several."""

    def point(record: Mapping[str, Any], label: str) -> PlottedPoint:
        nats, error = record["nats_per_token"], record["standard_error"]
        return PlottedPoint(record["variety"], nats, math.nan if error is None else error, label)

    evaluations = "" if curve["evaluations"] is None else f"{curve['evaluations']:,} evaluations"
    points = [point(each, f"{each['temperature']:g}") for each in curve["points"] if each["nats_per_token"] is not None]
    return PlottedCurve(", ".join(filter(None, (name, evaluations))) or "samples", points, point(real, ""))


def _record(sums: TextSums) -> dict[str, Any]:
    ratios, is_scored = sums.ratios(np.ones((1, len(sums.nats)))), bool(sums.scored.sum())
    values = {
        "nats_per_token": float(ratios.nats[0]) if is_scored else math.nan,
        "standard_error": _error(sums) if is_scored else math.nan,
        "bits_per_byte": float(ratios.bits_per_byte[0]) if is_scored else math.nan,
        "entropy": float(ratios.entropy[0]),
        "repetition_4": float(ratios.repetition[0]),
        "variety": float(ratios.variety[0]),
    }
    record: dict[str, Any] = finite(values)
    return record


def _numbers(sums: TextSums) -> tuple[str, str, str, str]:
    record = _record(sums)
    nats = record["nats_per_token"]
    shown = "nothing to score" if nats is None else measured(nats, record["standard_error"])
    return shown, f"{record['entropy']:.3f}", f"{record['repetition_4']:.1%}", f"{record['variety']:.3f}"


def _error(sums: TextSums) -> float:
    """The standard error of the nats per token, over texts, or blocks of held-out ones."""
    return ratio_of_sums(torch.from_numpy(sums.nats), torch.from_numpy(sums.scored), sums.documents).standard_error


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Samples of a model at several temperatures and numbers of steps, scored by a judge, beside held-out text."""

    name: ClassVar[str] = "frontier"

    by: Trained
    """The judge."""
    request: Request
    """The request for samples, of which temperature and steps are changed."""
    temperatures: Annotated[tuple[float, ...], AtLeast(0)] = TEMPERATURES
    """Temperatures of sampling."""
    steps: Annotated[tuple[int, ...], AtLeast(1)] = ()
    """Numbers of steps, for models that have them (default: an eighth of a window's tokens, and the request's own)."""
    samples: Annotated[int | None, AtLeast(1)] = None
    """Samples of each point (default: 32, and fewer of long texts)."""
    seed: int = 1
    """Sample i of a seed is always the same."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def _heats(self) -> list[float]:
        return sorted(set(self.temperatures))

    def fits(self, model: Trained) -> str | None:
        """Text models."""
        return Judge(by=self.by, request=self.request).fits(model)

    def __call__(self, model: Trained, draw: Callable[[Trained, Request, int], Timed] = timed) -> FrontierResult:
        """Sample by `draw`, and score. Raises UserError as the judge does, and for steps where the model has none."""
        if reason := self.fits(model):
            raise UserError(reason)
        judge = Judge(by=self.by, request=self.request, seed=self.seed)
        judge.check(model)
        if self.steps and not takes_steps(model):
            raise UserError(
                f"A model of {model.run.recipe} has no number of steps to choose, so --steps has no effect: leave it "
                "out."
            )
        counts = self.steps or step_counts(model, self.request)
        requests = self._requests(model, counts)
        drawn = list[Timed]()
        for asked in track("Sampling", requests, len(requests)):
            with silenced():
                drawn.append(draw(model, asked, self.seed))
        texts = [written_texts(each.samples, model) for each in drawn]
        length = max(len(tokens) for each in texts for tokens in each.tokens)
        number = requests[0].count
        windows = held_out(model, self.by, count=_SETS * number, length=length, given=given(texts[0]))
        real = text_sums(windows, self.by, sets=max(1, len(windows) // number))
        points = [
            Point(asked.temperature, text_sums(passages_of(each, model, self.by), self.by), taken.rate)
            for asked, each, taken in zip(requests, texts, drawn, strict=True)
        ]
        guess = math.log(likelihood(self.by)[0].tokenizer.size)
        size = len(self._heats)
        curves = tuple(
            self._curve(model, steps, points[number * size : (number + 1) * size], real, guess)
            for number, steps in enumerate(counts)
        )
        request: Any = self.request
        own = replace(request, num=requests[0].num)
        known = [each for asked, each in zip(requests, texts, strict=True) if asked == own]
        judged = replace(judge, request=own).of(model, known[0] if known else model.sample(own, seed=self.seed))
        return FrontierResult(judged, curves, real, guess, own.count)

    def _requests(self, model: Trained, counts: Sequence[int | None]) -> list[Any]:
        """The request of each point, by steps and temperature."""
        request: Any = self.request
        by_steps = [replace(request, steps=steps) for steps in counts] if takes_steps(model) else [request]
        if self.samples is None:
            assert isinstance(model.generator, TextGenerator)
            length = request.tokens or model.generator.context
            has_cache = not takes_steps(model)  # each evaluation reads one token
            cost = sum((1 if has_cache else model.generator.evaluations(each) or length) * length for each in by_steps)
            number = max(_FEWEST, min(_MOST, _BUDGET // (cost * len(self._heats))))
        else:
            number = self.samples
        return [replace(each, num=number, temperature=heat) for each in by_steps for heat in self._heats]

    def _curve(self, model: Trained, steps: int | None, points: Sequence[Point], real: TextSums, guess: float) -> Curve:
        request: Any = self.request
        request = replace(request, steps=steps) if takes_steps(model) else request
        value, error = area_of([each.sums for each in points], real, guess, seed=self.seed)
        evaluations = model.generator.evaluations(request)
        return Curve(steps, evaluations, model.decoding(request), tuple(points), value, error)


def text_sums(passages: Sequence[Passage], by: Trained, *, sets: int = 1) -> TextSums:
    """The sums of passages under a judge; those of a passage with nothing to score are 0. sets: as in `TextSums.of`."""
    passages = begun(passages, by)
    scored = [place for place, each in enumerate(passages) if each.scored_ids]
    nats_N, weights_N, sizes_N = np.zeros((3, len(passages)))
    if scored:
        nats, weights = nats_of([passages[place] for place in scored], by)
        nats_N[scored], weights_N[scored] = nats.numpy(), weights.numpy()
        sizes_N[scored] = [by.tokenizer.byte_count(passages[place].scored_ids) for place in scored]
    texts = [each.written for each in passages]
    documents = documents_among(passages)
    return TextSums.of(texts, nats_N, weights_N, sizes_N, vocabulary=by.tokenizer.size, sets=sets, documents=documents)
