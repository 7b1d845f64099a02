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
from seedfast.run_folder.lock import locked
from seedfast.scaling.choice import Choice, choose, smaller
from seedfast.scaling.draws import FittedLaw, Miss, Sample, band, fitted, other_texts
from seedfast.scaling.law import Floats
from seedfast.scaling.plan import FILE, MOST_STEPS, Plan, make, read
from seedfast.scaling.request import Request
from seedfast.scaling.runs import Measured, exact, known, refuse_other_texts
from seedfast.scaling.worker import measured_runs, working


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

    law: fitted to all its runs. best: the size that the law finds best at the budget, steps: of its training there.
    probability: the share of draws in which this family is the best. check: the largest run, predicted by a law of
    those with at most a quarter of its FLOPs. largest: the largest run of the cells; exact: the exact likelihood of its
    sampler, where its value is a bound.
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
    """The outcome. flops: of the run that is recommended for. pairs_texts: whether bands hold the luck of the text.

    choice: the form of the law, with how far off each form was. miss: how far off predictions are expected to be.
    """

    folder: Path
    plan: Plan
    runs: tuple[Measured, ...]
    families: tuple[Family, ...]
    flops: float
    pairs_texts: bool
    choice: Choice
    miss: Miss

    @property
    def recommended(self) -> Family:
        """The family with the best prediction. One with an uncertain law may be the best in more draws."""
        return min(self.families, key=lambda each: each.best.value)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "data": list(self.plan.request.data),
            "folder": str(self.folder),
            "flops": self.flops,
            "recommended": self.recommended.name,
            "form": self.choice.form,
            "misses": {form: miss.size for form, miss in self.choice.misses.items()},
            "expected_error": self.miss.size,
            "families": [each.record() for each in self.families],
            "runs": [each.record() for each in self.runs],
        }


def study(
    request: Request,
    folder: Path,
    *,
    for_flops: float | None = None,
    scale: float = 4.0,
    may_grow: bool = False,
    jobs: int | None = None,
) -> Study:
    """Plan a study in a folder, or continue the one that it holds, and judge its runs.

    for_flops: training FLOPs of the run to recommend for; scale: as many times those of the largest run.
    may_grow: whether a budget that is too small becomes the least one. jobs: runs that are trained at a time.
    Raises UserError for a folder of something else, data that cannot be used, too small a budget, or if a process of
    the study ends. Ctrl-C raises KeyboardInterrupt: the same call continues.
    """
    with working(request, folder, jobs) as workers:
        plan = read(folder, request)
        if plan is None:
            if folder.exists() and not (folder.is_dir() and all(UNFINISHED in each.name for each in folder.iterdir())):
                raise UserError(f"{folder} exists, and holds no study: give another --out.")
            say(f"Timing {len(request.families)} families …" if request.minutes else "Counting FLOPs …")
            plan = make(request, workers, may_grow=may_grow)
            folder.mkdir(parents=True, exist_ok=True)
            plan.write(folder)
            each = sum(run.flops for run in plan.runs) / len(request.families)
            say(f"{len(plan.runs)} runs, {each:.3g} FLOPs for each family; the plan is in {folder / FILE}.")
        elif any(known(folder, run) is None for run in plan.runs):
            plan.refuse_other_data(folder)
        with locked(folder):
            found = measured_runs(folder, plan, workers)
            refuse_other_texts(folder, found)
            return judged(folder, plan, found, for_flops=for_flops, scale=scale)


def judged(
    folder: Path, plan: Plan, found: Sequence[Measured], *, for_flops: float | None = None, scale: float = 4.0
) -> Study:
    """The study of runs that are all measured.

    Raises UserError if a law cannot be fitted, or for a budget that is too small for all sizes.
    """
    texts_TR = other_texts([each.nats for each in found], [each.cut for each in found], seed=plan.request.seed)
    flops = for_flops or scale * max(each.flops for each in found)
    names = plan.request.families
    own = {name: [number for number, each in enumerate(found) if each.family == name] for name in names}
    runs = [[found[number] for number in own[name]] for name in names]
    samples = [_sample(each, None if texts_TR is None else texts_TR[:, own[each[0].family]]) for each in runs]
    learned = [[number for number, run in enumerate(each) if run.in_fit] for each in runs]
    choice = choose([sample.part(each) for sample, each in zip(samples, learned, strict=True)])
    checks = _checked(plan, runs, samples, choice)
    miss = Miss.of([check.error or 0.0 for check in checks]) if plan.request.check else choice.miss
    laws = fitted(samples, choice.form, seed=plan.request.seed, miss=miss)
    bests = [_best(law, each, plan.step_flops[law.name], flops) for law, each in zip(laws, runs, strict=True)]
    drawn = np.stack([draws for _, _, draws in bests])
    wins = Counter(drawn.argmin(0).tolist())
    families = []
    for number, (law, check) in enumerate(zip(laws, checks, strict=True)):
        size, best, _ = bests[number]
        largest = max((each for each in runs[number] if each.in_fit), key=lambda each: each.flops)
        families.append(
            Family(
                name=law.name,
                law=law,
                is_bound=largest.is_bound,
                size=size,
                steps=round(flops / plan.step_flops[law.name][size]),
                best=best,
                probability=wins[number] / drawn.shape[1],
                check=check,
                largest=largest,
                exact=exact(folder, largest) if largest.is_bound else None,
            )
        )
    return Study(
        folder=folder,
        plan=plan,
        runs=tuple(found),
        families=tuple(sorted(families, key=lambda each: each.best.value)),
        flops=flops,
        pairs_texts=texts_TR is not None,
        choice=choice,
        miss=miss,
    )


def _sample(runs: Sequence[Measured], texts_TR: Floats | None) -> Sample:
    values, n, d = (np.array(each) for each in zip(*((run.value, run.n, run.tokens) for run in runs), strict=True))
    return Sample(runs[0].family, values, n, d, texts_TR)


def _checked(
    plan: Plan, runs: Sequence[Sequence[Measured]], samples: Sequence[Sample], choice: Choice
) -> list[Prediction]:
    """The largest run of each family, predicted from those with at most a quarter of its FLOPs."""
    parts = [sample.part(smaller(sample)) for sample in samples]
    laws = fitted(parts, choice.form, seed=plan.request.seed, miss=choice.miss)
    found = []
    for each, law in zip(runs, laws, strict=True):
        run = max(each, key=lambda one: one.flops)
        value, drawn = law.predict(run.n, run.tokens, of="check")
        low, high = band(drawn)
        found.append(
            Prediction(
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
        )
    return found


def _best(
    law: FittedLaw, runs: Sequence[Measured], step_flops: Mapping[int, float], flops: float
) -> tuple[int, Prediction, Floats]:
    """The size that the law finds best at a budget, its prediction, and draws of it.

    Only sizes that were trained are considered, with at least as many steps as the shortest run has.
    """
    tokens_of_a_step = sum(run.tokens for run in runs) / sum(run.steps for run in runs)
    sizes, least = sorted({run.size for run in runs}), min(run.steps for run in runs)
    possible = [size for size in sizes if flops >= least * step_flops[size]]
    if not possible:
        raise UserError(
            f"The law of {law.name} knows runs of {least} steps or more, and {flops:.3g} FLOPs are fewer steps in each "
            f"of its sizes: give at least --for-flops {least * step_flops[sizes[0]]:.2g}."
        )

    def at(size: int) -> tuple[float, float]:
        return step_flops[size] / tokens_of_a_step / 6, flops / step_flops[size] * tokens_of_a_step

    if flops > MOST_STEPS * max(step_flops[size] for size in sizes):
        raise UserError(f"{flops:.3g} FLOPs are more than {MOST_STEPS:.0g} steps of {law.name}: give less.")
    size = min(possible, key=lambda each: float(law.law.loss(*at(each))[0]))
    n, tokens = at(size)
    value, drawn = law.predict(n, tokens, of="best")
    low, high = band(drawn)
    name = f"{law.name}, {size} layers"
    return size, Prediction(name=name, n=n, tokens=tokens, flops=flops, value=value, low=low, high=high), drawn
