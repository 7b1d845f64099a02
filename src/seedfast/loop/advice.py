"""Sentences about a run that its numbers alone do not tell: at its beginning, on resume, and at its end."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from seedfast.errors import UserError
from seedfast.loop.config import Run
from seedfast.loop.plan import Plan
from seedfast.loop.session import Session
from seedfast.run_folder import journal
from seedfast.run_folder.records import BestRecord


def cautions(run: Run, plan: Plan, validation: int) -> Iterator[str]:
    """What a user may not expect of this run. validation: the number of its validation examples.

    Raises UserError for options that need a validation split where there is none.
    """
    if run.schedule.warmup >= plan.steps:
        reached = run.schedule.lr_multiplier(plan.steps - 1, plan.steps)
        yield (
            f"the warm-up ({run.schedule.warmup} steps) is not shorter than the run ({plan.steps} steps), so the "
            f"learning rate ends at {reached:.2g} of its peak; lower --schedule.warmup"
        )
    if validation:
        return
    for needs, option in (
        (run.schedule.shape == "plateau", "schedule.shape plateau"),
        (run.patience is not None, "patience"),
        (run.best_metric != "loss", "best_metric"),
    ):
        if needs:
            raise UserError(f"{option} needs a validation split, and this data has none: leave it out.")


def rate_jump(stored: Run, run: Run, plan: Plan, step: int) -> str | None:
    """A sentence if the learning rate of the next step is not where the stored schedule would have led it."""
    if step == 0 or step >= plan.steps:
        return None
    before = stored.schedule.lr_multiplier(step - 1, stored.steps)
    expected = stored.schedule.lr_multiplier(step, stored.steps) if step < stored.steps else before
    now = run.schedule.lr_multiplier(step, plan.steps)
    if abs(now - expected) < 0.01:
        return None
    return (
        f"the learning rate jumps from {before:.2g} to {now:.2g} of its peak at step {step + 1}, because its schedule "
        f"now ends at step {plan.steps}, not {stored.steps}"
    )


def conclusion(session: Session) -> Iterator[str]:
    """Sentences on a run that has just ended."""
    run, state = session.run, session.state
    if state.step < run.steps:
        yield f"stopped early at step {state.step} of {run.steps}: {run.patience} validations without improvement"
    if sentence := verdict(session.folder, state.best, session.family.objective.measure.metrics):
        yield sentence


def verdict(run_folder: Path, best: Mapping[str, BestRecord], metrics: Mapping[str, int]) -> str | None:
    """A sentence on the validations after the best one, of the weights that are used; None if it is the last.

    metrics: 1 for each metric of which more is better.
    """
    weights = "ema" if "ema" in best else "raw"
    if (record := best.get(weights)) is None:
        return None
    later = [(step, value) for step, value in _values(run_folder, weights, record.metric) if step > record.step]
    if not later:
        return None
    sign = metrics.get(record.metric, -1)
    losses = [-sign * value for _, value in [(record.step, record.value), *later]]
    worse = losses[-1] - losses[0]
    steady = len(later) > 2 and all(one < other for one, other in pairwise(losses))
    step, value = later[-1]
    name = f"validation {record.metric.replace('_', ' ')} ({weights})"
    if not steady and worse <= (record.standard_error or 0.0):
        return f"{name}: best at step {record.step} ({record.value:.4f}), no better since ({value:.4f} at step {step})"
    trend = "rising" if sign < 0 else "falling"
    return (
        f"{name}: best at step {record.step} ({record.value:.4f}), {trend} since ({value:.4f} at step {step}): from "
        f"there on the model overfits; step {record.step} is what is sampled and exported (--at newest: step {step})"
    )


def _values(run_folder: Path, weights: str, metric: str) -> Iterator[tuple[int, float]]:
    """The step and the value of each validation of a kind of weights."""
    for entry in journal.read(run_folder):
        score: Mapping[str, Any] = entry.get("validation", {}).get(weights, {})
        value = score.get(metric, score.get("diagnostics", {}).get(metric))
        if value is not None:
            yield entry["step"], value
