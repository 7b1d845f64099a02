"""A study: runs of several families at equal budgets, a law for each, and which of them to train with more."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.console import say
from seedfast.errors import UserError
from seedfast.files import UNFINISHED, finite
from seedfast.report.format import duration, measured
from seedfast.run_folder.lock import locked
from seedfast.study.draws import FittedLaw, band, fitted, other_texts
from seedfast.study.law import Floats
from seedfast.study.plan import FILE, Plan, Request, make, read
from seedfast.study.runs import Measured, exact, known, refuse_other_texts, train_and_measure


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The bits per byte of a run by a law, with its band, and where it was trained, what was measured."""

    name: str
    n: float
    tokens: float
    flops: float
    value: float
    low: float
    high: float
    measured: float | None = None
    standard_error: float | None = None

    @property
    def error(self) -> float | None:
        """By what part of the measured value the prediction is off."""
        return None if self.measured is None else self.value / self.measured - 1


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of a study.

    law: fitted to all its runs but the one that checks it. best: the size that the law finds best at the budget, and
    steps: of its training there. probability: the share of draws in which this family is the best. check: a run that
    was left out of the fit, predicted. exact: of the largest run, whose value is a bound, the exact likelihood of its
    sampler; largest: that run.
    """

    name: str
    law: FittedLaw
    is_bound: bool
    size: int
    steps: int
    best: Prediction
    probability: float
    check: Prediction
    largest: Measured
    exact: tuple[float, float] | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        law = {key: float(value[0]) for key, value in vars(self.law.law).items()}
        found = {
            "family": self.name,
            "is_bound": self.is_bound,
            "law": {**law, "spread": self.law.spread},
            "size": self.size,
            "steps": self.steps,
            "prediction": asdict(self.best),
            "probability": self.probability,
            "check": {**asdict(self.check), "error": self.check.error},
            "deployed": None if self.exact is None else self.exact[0],
            "deployed_standard_error": None if self.exact is None else self.exact[1],
        }
        plain: dict[str, Any] = finite(found)
        return plain


@dataclass(frozen=True, kw_only=True)
class Study:
    """The outcome. flops: of the run that is recommended for. pairs_texts: whether bands hold the luck of the text."""

    folder: Path
    plan: Plan
    runs: tuple[Measured, ...]
    families: tuple[Family, ...]
    flops: float
    pairs_texts: bool

    @property
    def recommended(self) -> Family:
        """The family that is the best in most draws."""
        return max(self.families, key=lambda each: each.probability)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "data": list(self.plan.request.data),
            "folder": str(self.folder),
            "flops": self.flops,
            "recommended": self.recommended.name,
            "families": [each.record() for each in self.families],
            "runs": [each.record() for each in self.runs],
        }


def study(request: Request, folder: Path, *, for_flops: float | None = None, scale: float = 4.0) -> Study:
    """Plan a study in a folder, or continue the one that it holds, and judge its runs.

    for_flops: training FLOPs of the run to recommend for; scale: as many times those of the largest run of the fit.
    Raises UserError for a folder of something else, data that cannot be used, or too small a budget. Ctrl-C raises
    KeyboardInterrupt: the same call continues.
    """
    plan = read(folder, request)
    if plan is None:
        if folder.exists() and not (folder.is_dir() and all(UNFINISHED in each.name for each in folder.iterdir())):
            raise UserError(f"{folder} exists, and holds no study: give another --out.")
        say(f"Timing {len(request.families)} families …" if request.minutes else "Counting FLOPs …")
        plan = make(request)
        folder.mkdir(parents=True, exist_ok=True)
        plan.write(folder)
        each = sum(run.flops for run in plan.runs) / len(request.families)
        say(f"{len(plan.runs)} runs, {each:.3g} FLOPs for each family; the plan is in {folder / FILE}.")
    with locked(folder):
        found = [_run(folder, plan, number) for number in range(len(plan.runs))]
    refuse_other_texts(folder, found)
    return judged(folder, plan, found, for_flops=for_flops, scale=scale)


def _run(folder: Path, plan: Plan, number: int) -> Measured:
    """A run of the plan: its result where there is one."""
    planned = plan.runs[number]
    if (found := known(folder, planned)) is not None:
        return found
    found = train_and_measure(folder, plan, planned)
    value = "≤ " * found.is_bound + measured(found.value, found.standard_error)
    say(f"{number + 1}/{len(plan.runs)}  {found.name}  {value} bits per byte  {duration(found.seconds)}")
    return found


def judged(
    folder: Path, plan: Plan, found: Sequence[Measured], *, for_flops: float | None = None, scale: float = 4.0
) -> Study:
    """The study of runs that are all measured. Raises UserError if a law cannot be fitted."""
    texts_TR = other_texts([each.nats for each in found], [each.cut for each in found], seed=plan.request.seed)
    flops = for_flops or scale * max(each.flops for each in found if each.in_fit)
    laws: dict[str, tuple[FittedLaw, Prediction]] = {}
    bests: dict[str, tuple[int, Prediction, Floats]] = {}
    for name in plan.request.families:
        own = [number for number, each in enumerate(found) if each.family == name]
        runs = [found[number] for number in own]
        texts = None if texts_TR is None else texts_TR[:, own]
        law, check = _checked(runs, texts, plan)
        laws[name] = law, check
        bests[name] = _best(law, runs, plan.step_flops[name], flops)
    drawn = np.stack([draws for _, _, draws in bests.values()])
    wins = Counter(drawn.argmin(0).tolist())
    families = []
    for number, (name, (law, check)) in enumerate(laws.items()):
        size, best, _ = bests[name]
        largest = max((each for each in found if each.family == name and each.in_fit), key=lambda each: each.flops)
        families.append(
            Family(
                name=name,
                law=law,
                is_bound=largest.is_bound,
                size=size,
                steps=max(1, round(flops / plan.step_flops[name][size])),
                best=best,
                probability=wins[number] / drawn.shape[1],
                check=check,
                largest=largest,
                exact=exact(folder, largest) if largest.is_bound else None,
            )
        )
    ordered = sorted(families, key=lambda each: each.best.value)
    return Study(
        folder=folder,
        plan=plan,
        runs=tuple(found),
        families=tuple(ordered),
        flops=flops,
        pairs_texts=texts_TR is not None,
    )


def _fit(runs: Sequence[Measured], texts_TR: Floats | None, chosen: Sequence[int], plan: Plan) -> FittedLaw:
    part = [runs[number] for number in chosen]
    values, n, d = (np.array(each) for each in zip(*((run.value, run.n, run.tokens) for run in part), strict=True))
    texts = None if texts_TR is None else texts_TR[:, list(chosen)]
    return fitted(values, n, d, seed=plan.request.seed, name=part[0].family, texts_TR=texts)


def _checked(runs: Sequence[Measured], texts_TR: Floats | None, plan: Plan) -> tuple[FittedLaw, Prediction]:
    """The law of a family, and the prediction of the run that is the check.

    Without such a run the largest is left out of a law of its own, and stays in the one that is returned.
    """
    inside = [number for number, run in enumerate(runs) if run.in_fit]
    law = _fit(runs, texts_TR, inside, plan)
    outside = [number for number, run in enumerate(runs) if not run.in_fit]
    held_out = outside[0] if outside else max(inside, key=lambda number: runs[number].flops)
    used = law if outside else _fit(runs, texts_TR, [number for number in inside if number != held_out], plan)
    run = runs[held_out]
    value, drawn = used.predict(run.n, run.tokens, of="check")
    low, high = band(drawn)
    return law, Prediction(
        name=run.name,
        n=run.n,
        tokens=run.tokens,
        flops=run.flops,
        value=value,
        low=low,
        high=high,
        measured=run.value,
        standard_error=run.standard_error,
    )


def _best(
    law: FittedLaw, runs: Sequence[Measured], step_flops: Mapping[int, float], flops: float
) -> tuple[int, Prediction, Floats]:
    """The size that the law finds best at a budget, its prediction, and draws of it."""
    tokens_of_a_step = sum(run.tokens for run in runs) / sum(run.steps for run in runs)

    def at(size: int) -> tuple[float, float]:
        return step_flops[size] / tokens_of_a_step / 6, flops / step_flops[size] * tokens_of_a_step

    size = min(step_flops, key=lambda each: float(law.law.loss(*at(each))[0]))
    n, tokens = at(size)
    value, drawn = law.predict(n, tokens, of="best")
    low, high = band(drawn)
    name = f"{law.name}, {size} layers"
    return size, Prediction(name=name, n=n, tokens=tokens, flops=flops, value=value, low=low, high=high), drawn
