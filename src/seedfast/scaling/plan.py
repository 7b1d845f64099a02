"""The plan of a study: which runs it trains, each with how many FLOPs. It is written before the first of them.

Each family trains the same nine cells: three sizes, and three lengths for each. A cell is a number of FLOPs, that of
the first family at this size and length; every family gets it, in whole steps:

    steps = round(FLOPs of the cell / FLOPs of a step),      FLOPs of a step by `loop/flops.py`

With at least 200 steps each is within a quarter of a percent of its cell. A size is m layers of m heads of 16 channels,
about 3072 m³ parameters in the blocks. N of the law is FLOPs for each token / 6, in the unit of parameters, so that
6 N D is the FLOPs of a run exactly, with attention and output layer, as DeepSeek LLM (Bi et al. 2024, section 3.2) has
it. The middle cell has about 20 tokens for each of N, as Hoffmann et al. 2022 found to be best, or as near to that as
the budget allows.

N-gram tables are left out: they take no FLOPs, and a family that reads vectors can have none.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seedfast.console import say
from seedfast.data.dataset import Fingerprint, describe_difference
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.files import commit, to_json
from seedfast.loop.config import Run
from seedfast.scaling.request import BATCH, Request
from seedfast.untrusted import read_json
from seedfast.workers import Workers

FILE = "study.json"
LADDER = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32)
"""The sizes: layers, and heads of 16 channels. A single layer of attention follows another law."""
LEAST_STEPS = 200
"""Steps of a run: the loss of the first few hundred falls faster than any power law."""
MOST_STEPS = 10**9
LENGTHS = (1, 2, 4)
CHECK = 4
"""FLOPs of the run that checks the law, over those of the largest run of the fit."""
_SIZES = 3
_TOKENS_FOR_EACH = 20.0
_HELD_OUT = 1 << 16  # bytes that all runs are measured on, at most, where the split is not the data's own
_MORE = 1.001  # times the least budget, in which every run fits in spite of rounding
_MARGIN = 0.85  # of the minutes, for what was measured too short
_OPENING = 2.0  # seconds of a run before its first step and after its last


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of the plan. budget: FLOPs of its cell, which its steps come to within half a step."""

    name: str
    family: str
    size: int
    steps: int
    step_flops: float
    budget: float
    in_fit: bool = True

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise ValueError(f"{self.name!r} is no name of a run")

    @property
    def flops(self) -> float:
        """The FLOPs of its training."""
        return self.steps * self.step_flops


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for, the part of the text that is held out, FLOPs of a step by family and size, and the runs.

    data: what they are trained on.
    """

    request: Request
    validation: float
    step_flops: Mapping[str, Mapping[int, float]]
    runs: tuple[PlannedRun, ...]
    data: Fingerprint | None = None

    def refuse_other_data(self, folder: Path) -> None:
        """Raise UserError if the data is not what the study began with. A plan of an earlier version does not know."""
        now = self.run(self.runs[0]).data.load().fingerprint
        if self.data is not None and self.data.digest != now.digest:
            raise UserError(
                f"The data of the study in {folder} has changed ({describe_difference(self.data, now)}): restore it to "
                "continue, or give another --out."
            )

    def write(self, folder: Path) -> None:
        """Commit it as the study's file."""
        commit(folder / FILE, to_json(asdict(self)))

    def named(self, name: str) -> PlannedRun:
        """The planned run of a name."""
        return next(run for run in self.runs if run.name == name)

    def run(self, planned: PlannedRun) -> Run:
        """A planned run as the value that is trained."""
        return self.request.run(planned.family, planned.size, planned.steps, self.validation)


def read(folder: Path, request: Request) -> Plan | None:
    """The plan of the study in a folder; None for a new folder.

    Raises UserError for another study, or a file that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        plan = Plan(
            request=Request.of(stored["request"]),
            validation=float(stored["validation"]),
            step_flops={
                family: {int(size): float(flops) for size, flops in each.items()}
                for family, each in stored["step_flops"].items()
            },
            runs=tuple(PlannedRun(**each) for each in stored["runs"]),
            data=Fingerprint(**stored["data"]) if stored.get("data") else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as the plan of a study ({error}): give another --out.") from error
    for key, before in asdict(plan.request).items():
        now = getattr(request, key)
        if before != now:
            raise UserError(
                f"{folder} holds a study with {key} = {_shown(before)}, and {_shown(now)} is asked for: give the same "
                "command to continue it, or another --out."
            )
    return plan


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple | list) else str(value)


def make(request: Request, workers: Workers, *, may_grow: bool = False) -> Plan:
    """Plan a new study. Nothing is trained, but a few steps of each family are timed for a budget in minutes.

    workers: those that train the runs; the families are timed side by side, as they will be trained.
    may_grow: whether a budget too small for 200 steps of each run becomes the least one; otherwise it raises UserError,
    as data without held-out text does.
    """
    began = time.perf_counter()
    validation = _validation(request)
    tasks = [
        {"time": family, "sizes": LADDER, "validation": validation, "is_timed": request.minutes is not None}
        for family in request.families
    ]
    answers = dict(workers.results(tasks))
    timings = [answers[number] for number in range(len(tasks))]
    flops = {
        family: {int(size): value for size, value in each["flops"].items()}
        for family, each in zip(request.families, timings, strict=True)
    }
    seconds = sum(each["seconds_per_flop"] for each in timings) / workers.processes
    opening = sum(_OPENING + each["ending"] for each in timings) * (_SIZES * len(LENGTHS) + request.check)
    opening /= workers.processes
    if request.minutes is None:
        assert request.flops is not None
        each = request.flops / len(request.families)
    else:
        left = 60 * request.minutes * _MARGIN - opening - (time.perf_counter() - began)
        each = max(0.0, left) / seconds
    try:
        runs = planned(flops, each, tokens=BATCH * request.context, check=request.check)
    except TooSmall as error:
        needed = f"--flops {rounded_up(error.flops * len(request.families))}"
        if request.minutes is not None:
            minutes = (error.flops * seconds + opening) / 60 / _MARGIN
            needed = f"--minutes {math.ceil(minutes + (time.perf_counter() - began) / 60)}"
        fewer = " or fewer --families" if len(request.families) > 1 else ""
        if not may_grow:
            raise UserError(
                f"The budget leaves a run fewer than {LEAST_STEPS} steps: give at least {needed}{fewer}."
            ) from None
        say(f"{request.minutes:g} minutes leave a run fewer than {LEAST_STEPS} steps here, so this study has {needed}.")
        runs = planned(flops, _MORE * error.flops, tokens=BATCH * request.context, check=request.check)
    plan = Plan(request=request, validation=validation, step_flops=flops, runs=runs)
    return replace(plan, data=plan.run(runs[0]).data.load().fingerprint)


def rounded_up(number: float) -> str:
    """With two digits, and not less."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return f"{(math.floor(number / unit) + 1) * unit:.2g}"


class TooSmall(Exception):
    """A budget in which no run has enough steps. flops: of each family, that are needed at least."""

    def __init__(self, flops: float) -> None:
        super().__init__(flops)
        self.flops = flops


def planned(
    step_flops: Mapping[str, Mapping[int, float]], each: float, *, tokens: int, check: bool
) -> tuple[PlannedRun, ...]:
    """The runs of all families, those with fewer FLOPs first. each: FLOPs of one family. tokens: of a step.

    Raises TooSmall, and UserError for a budget that no training could use up.
    """
    reference = next(iter(step_flops.values()))
    needed, fitting = list[float](), list[tuple[float, int, float]]()
    for first in range(len(LADDER) - _SIZES):
        sizes = LADDER[first : first + _SIZES]
        n = [reference[size] / 6 / tokens for size in sizes]
        for_one = (
            6 * sum(LENGTHS) * sum(n) + check * CHECK * 6 * n[-1] * LENGTHS[-1]
        )  # FLOPs, for the least tokens of 1
        length = each / for_one
        least = LEAST_STEPS * max(flops[size] / reference[size] for flops in step_flops.values() for size in sizes)
        needed.append(least * tokens * for_one)
        if length >= least * tokens:
            fitting.append((abs(math.log(LENGTHS[1] * length / n[1] / _TOKENS_FOR_EACH)), first, length))
    if not fitting:
        raise TooSmall(min(needed))
    _, first, length = min(fitting)
    sizes = LADDER[first : first + _SIZES]
    cells = [
        (f"{size}-x{times}", size, reference[size] / tokens * length * times, True)
        for size in sizes
        for times in LENGTHS
    ]
    if check:
        cells.append((f"{LADDER[first + _SIZES]}-check", LADDER[first + _SIZES], CHECK * cells[-1][2], False))
    most = max(budget / flops[size] for _, size, budget, _ in cells for flops in step_flops.values())
    if most > MOST_STEPS:
        raise UserError(f"The budget is {most:.2g} steps for a run: give less than {MOST_STEPS:.0g}.")
    runs = [
        PlannedRun(
            name=f"{family}-{name}",
            family=family,
            size=size,
            steps=round(budget / flops[size]),
            step_flops=flops[size],
            budget=budget,
            in_fit=in_fit,
        )
        for name, size, budget, in_fit in cells
        for family, flops in step_flops.items()
    ]
    return tuple(sorted(runs, key=lambda run: run.budget))


def _validation(request: Request) -> float:
    """The part of the text that is held out: that of the recipe, and less of a long text."""
    run = request.run(request.families[0], LADDER[0], 1000, 0.1)
    assert isinstance(run.data, TextData)
    corpus = run.data.load()
    assets = corpus.assets
    assert isinstance(assets, TextAssets)
    if not len(corpus.validation):
        raise UserError(
            f"A study measures runs on held-out text, and {_shown(request.data)} is too short to have any: add text, "
            "or lower --context."
        )
    return float(f"{run.data.validation * min(1.0, _HELD_OUT / assets.validation_bytes):.3g}")
