"""The loop. One page, one loss, every family.

The order of events in a step:

    1. tasks      the positions of this step → example ids → batches → tasks (all randomness is keyed)
    2. weight     the weight of the whole global batch: all micro-batches, all processes
    3. gradient   loss and backward pass of each micro-batch, divided by that one weight
    4. check      loss and gradient norm are finite, or nothing moves
    5. update     clip, optimizer, average of the weights, adaptive state of the family
    6. journal    one line; a step that was not finite is counted, or ends the training
    7. validate   every `eval_every` steps: the same loss on fixed examples, raw and averaged weights; best; plateau
    8. sample     at each validation, or every `sample_every` steps: the family's showcase
    9. commit     every `save_every` steps, at a new best, at the end, and on a signal to stop

The device does 3 to 5 (`step.py`) while the host is ahead of it; 6 reads what it has done.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn, TypeVar

import torch

from seedfast import phases
from seedfast.console import warn
from seedfast.errors import TrainingStopped
from seedfast.families.family import Task
from seedfast.loop.costs import Costs
from seedfast.loop.interrupt import Interrupt
from seedfast.loop.micro_batch import launch_within_memory
from seedfast.loop.plan import is_due
from seedfast.loop.progress import Progress
from seedfast.loop.sample import has_diverged, save_showcase
from seedfast.loop.save import Saving
from seedfast.loop.session import Session
from seedfast.loop.step import Update
from seedfast.loop.tasks import prefetched_tasks
from seedfast.loop.validate import better, validate_session

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a session of training ended: at `step`, by the signal number `interrupted_by` or, with None, finished."""

    step: int
    interrupted_by: int | None = None


def run_training(session: Session, progress: Progress) -> Outcome:
    """Train from the session's step to the end of its run.

    Raises TrainingStopped when the loss is not finite (or the budget of skipped steps is spent); the checkpoints
    committed before stay as they are.
    """
    plan, state = session.plan, session.state
    if _stalled(session):  # early stopping had ended this run, which is only opened again
        session.note("finished")
        return Outcome(state.step)
    tasks = prefetched_tasks(session, state.step, plan.steps)
    with Interrupt() as interrupt, Saving(session) as saving, closing(tasks) as prefetched:
        launched = Launched(session, progress, saving)

        def commit() -> None:
            """Save what the steps so far have come to."""
            launched.finish()
            saving.save(at_once=True)

        for step, prepared in launched.waiting(prefetched):
            sys.audit(phases.STEP, step)
            weight, stop, save_again = agree(session, prepared.weight, interrupt.number, saving.due())
            if stop:
                launched.finish()
                saving.save_last()
                session.note("interrupted")
                return Outcome(step, stop)
            prepared.wait()
            update = launch_within_memory(session, step, prepared.tasks, weight, commit)
            launched.add(update, prepared.tasks)
            state.step = step + 1
            final = state.step == plan.steps
            improved = False
            validates = final or is_due(state.step, plan.eval_every)
            samples = plan.samples(state.step, validating=validates)
            validates = validates and len(session.corpus.validation) > 0
            saves = save_again or is_due(state.step, plan.save_every)
            if final or validates or samples or saves:
                launched.finish()
            if validates:
                record, improved = _validate(session, saving)
                progress.validation(session, record)
                final = final or _stalled(session)
            if samples:
                _sample(session)
            if final:
                saving.save_last()
            elif improved or saves:
                saving.save()
            launched.resume()
            if final:
                break
    session.note("finished")
    return Outcome(state.step)


class Launched:
    """The steps whose numbers are not in the journal yet.

    They are as many as `most_ahead` says on all ranks, or these would stop at different steps.
    """

    def __init__(self, session: Session, progress: Progress, saving: Saving) -> None:
        self._session, self._progress, self._saving = session, progress, saving
        self._most = most_ahead(session.distributed.device)
        self._updates = deque[tuple[Update, float]]()
        self._costs = Costs(session)
        self._began = time.perf_counter()

    def waiting(self, steps: Iterable[T]) -> Iterator[T]:
        """The same steps. The time until each arrives counts as waiting for data."""
        return self._costs.waiting(steps)

    def add(self, update: Update, tasks: list[Task]) -> None:
        """Journal the steps before this one. Raises TrainingStopped if one was not finite."""
        self._updates.append((update, self._costs.waited))
        self._costs.count(update.step, tasks)
        while len(self._updates) > self._most:
            self._read()

    def finish(self) -> None:
        """Journal all steps. Raises TrainingStopped if one was not finite."""
        while self._updates:
            self._read()

    def resume(self) -> None:
        """Let the next step's time begin now: validations and saves are no part of it."""
        if not self._updates:
            self._began = time.perf_counter()

    def _read(self) -> None:
        session, (update, waited) = self._session, self._updates.popleft()
        entry = update.entry(session)
        if entry["loss"] is None:
            entry["skipped"] = _refuse(session, update)
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        entry["time"] = self._costs.of_step(entry, seconds, waited, self._saving.stall())
        self._progress.step(session, entry, seconds)
        session.record(entry)


def most_ahead(device: torch.device) -> int:
    """How many steps the host may be ahead of the journal: a device has the next one to do while it reads the last."""
    return 0 if device.type == "cpu" else 1


def agree(
    session: Session, weight: float | Fraction, stop: int | None, save_again: bool
) -> tuple[float, int | None, bool]:
    """The weight of the global batch, the signal to stop that any process received, and whether to save again.

    weight: that of this process's part.
    """
    if session.distributed.world_size == 1:
        return float(weight), stop, save_again
    weights, signals, retries = zip(*session.distributed.all_gather((weight, stop, save_again)), strict=True)
    return float(sum(weights)), max((number for number in signals if number is not None), default=None), any(retries)


def _refuse(session: Session, update: Update) -> str:
    """Event 6, when the loss or the gradient was not finite: skip within the budget, or stop."""
    run, state, step = session.run, session.state, update.step
    if run.precision == "fp16" and math.isfinite(update.loss) and update.scale > 1:
        return "overflow"  # of the scaled gradient: routine in fp16, the step has lowered the scale
    ids = session.ids(step)
    where = (
        f"the loss or its gradient is not finite at step {step + 1} (examples {ids[:8]}{'…' if len(ids) > 8 else ''})"
    )
    if run.on_nonfinite == "stop":
        session.note("stopped", reason=where)
        raise TrainingStopped(
            f"Training stopped: {where}. The checkpoints before it are intact; run the same command again with "
            "--on-nonfinite skip, or with a lower rate (--optimizer.lr … --allow-change optimizer.lr)."
        )
    state.skipped += 1
    if state.skipped > run.skip_budget:
        session.note("stopped", reason=where)
        raise TrainingStopped(f"Training stopped: {where}, and the budget of {run.skip_budget} skipped steps is spent.")
    return "not finite"


def _validate(session: Session, saving: Saving) -> tuple[dict[str, Any], bool]:
    """Event 7. Returns the record, and whether any kind of weights is the best so far.

    Raises TrainingStopped if the loss is not finite: nothing that is trained from here on would be of use.
    """
    run, state, objective = session.run, session.state, session.family.objective
    epoch = session.plan.epoch(state.step)
    sys.audit(phases.VALIDATE, state.step)
    networks = {"raw": state.network} | ({"ema": state.average.network} if state.average else {})
    began = time.perf_counter()
    scores = {weights: validate_session(session, network) for weights, network in networks.items()}
    seconds = round(time.perf_counter() - began, 6)
    saving.settle()
    record: dict[str, Any] = {weights: score.record(objective.measure) for weights, score in scores.items()}
    best = {weights: found for weights, score in scores.items() if (found := better(session, weights, score))}
    state.best |= best
    state.plateau.observe(run.schedule, list(scores.values())[-1].loss)  # the averaged weights where there are some
    session.validation, session.validated = record, state.step
    session.record({"step": state.step, "epoch": epoch, "validation": record, "time": {"seconds": seconds}})
    _refuse_validation(session, record)
    _warn(session, record)
    return record, bool(best)


def _refuse_validation(session: Session, record: Mapping[str, Any]) -> None:
    """Stop the training if a validation loss is not finite. The checkpoint of this step is not committed."""
    broken = [weights for weights, score in record.items() if score["loss"] is None]
    if broken:
        kinds = " and ".join(broken)
        _stop(session, f"the validation loss of the {kinds} weights is not finite at step {session.state.step}")


def _stop(session: Session, where: str) -> NoReturn:
    """End the training between two steps; the checkpoints before it stay."""
    session.note("stopped", reason=where)
    raise TrainingStopped(
        f"Training stopped: {where}. The checkpoints before it are as they were; train with a lower rate "
        "(--optimizer.lr … --allow-change optimizer.lr), from an earlier one with --at STEP if that is not enough."
    )


def _warn(session: Session, record: Mapping[str, Any]) -> None:
    """Warn about diagnostics of a validation above the limits of the family."""
    for weights, score in record.items():
        for name, (limit, meaning) in session.family.objective.measure.alarms.items():
            value = score["diagnostics"].get(name, -math.inf)
            if value > limit:
                session.note("warning", reason=f"{name} is {value:.4g}, above {limit:g} ({weights} weights): {meaning}")


def _sample(session: Session) -> None:
    """Event 8, on rank 0 or, where the weights are shared, on all ranks alike.

    Its random numbers are keyed apart from those of training.

    Raises TrainingStopped if the weights have diverged.
    """
    if has_diverged(session.state.average.network if session.state.average else session.state.network):
        _stop(session, f"the weights are not finite at step {session.state.step}")
    if session.placement.samples_here and session.family.generator:
        _write_samples(session)
    session.distributed.barrier()


def _write_samples(session: Session) -> None:
    """Write samples and their line of the journal. A full disk costs the samples and not the training."""
    began, step = time.perf_counter(), session.state.step
    try:
        shown = save_showcase(session)
    except OSError as error:
        warn(f"the samples of step {step} could not be written ({error}); training continues")
        return
    names = [str(file.relative_to(session.folder)) for file in shown.files]
    seconds = round(time.perf_counter() - began, 6)
    session.record({"step": step, "samples": names, "decoding": shown.decoding, "time": {"seconds": seconds}})


def _stalled(session: Session) -> bool:
    """Whether early stopping applies: the last `patience` validations brought no improvement."""
    run, state = session.run, session.state
    best = state.best.get("ema" if state.average else "raw")
    if run.patience is None or best is None:
        return False
    return state.step - best.step >= run.patience * session.plan.eval_every
