"""The loop. One page, one loss, every family.

The order of events in a step:

    1. tasks      the positions of this step → example ids → batches → tasks (all randomness is keyed)
    2. weight     the weight of the whole global batch: all micro-batches, all processes
    3. gradient   loss and backward pass of each micro-batch, divided by that one weight
    4. check      loss and gradient norm are finite, or the optimizer does not move
    5. update     clip, optimizer, average of the weights, adaptive state of the family
    6. journal    one line
    7. validate   every `eval_every` steps: the same loss on fixed examples, raw and averaged weights; best; plateau
    8. sample     at each validation, or every `sample_every` steps: the family's showcase
    9. commit     every `save_every` steps, at a new best, at the end, and on a signal to stop
"""

import hashlib
import math
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from seedfast import keys, phases
from seedfast.console import warn
from seedfast.errors import TrainingStopped
from seedfast.families.family import Task
from seedfast.loop.interrupt import Interrupt
from seedfast.loop.progress import Progress
from seedfast.loop.sample import has_diverged, save_showcase
from seedfast.loop.save import Retry, save
from seedfast.loop.session import Session
from seedfast.loop.tasks import prefetched_tasks
from seedfast.loop.validate import averaged, chosen_examples, validate
from seedfast.run_folder.journal import StepEntry
from seedfast.run_folder.records import BestRecord


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
    retry = Retry()
    with Interrupt() as interrupt, closing(prefetched_tasks(session, state.step, plan.steps)) as prefetched:
        for step, tasks in prefetched:
            began = time.perf_counter()
            sys.audit(phases.STEP, step)
            weight, stop, save_again = agree(session, tasks, interrupt.number, retry.due())
            if stop:
                save(session, retry, last=True)
                session.note("interrupted")
                return Outcome(step, stop)
            entry = update(session, step, tasks, weight)
            state.step = step + 1
            seconds = time.perf_counter() - began
            progress.step(session, entry, seconds)
            session.record({**entry, "time": {"seconds": round(seconds, 6)}})
            final = state.step == plan.steps
            improved = False
            is_due = final or (plan.eval_every and state.step % plan.eval_every == 0)
            if is_due and len(session.corpus.validation):
                record, improved = _validate(session)
                progress.validation(session, record)
                final = final or _stalled(session)
            if plan.samples(state.step, validates=bool(is_due)):
                _sample(session)
            if final or improved or save_again or state.step % plan.save_every == 0:
                save(session, retry, last=final)
            if final:
                break
    session.note("finished")
    return Outcome(state.step)


def agree(session: Session, tasks: list[Task], stop: int | None, save_again: bool) -> tuple[float, int | None, bool]:
    """The weight of the global batch, the signal to stop that any process received, and whether to save again."""
    weight = sum(float(task.weight_B.sum()) for task in tasks)
    if session.distributed.world_size == 1:
        return weight, stop, save_again
    weights, signals, retries = zip(*session.distributed.all_gather((weight, stop, save_again)), strict=True)
    return sum(weights), max((number for number in signals if number is not None), default=None), any(retries)


def update(session: Session, step: int, tasks: list[Task], weight: float) -> StepEntry:
    """Events 3 to 5: one optimizer step, or none if it would not be finite. Returns the journal's entry."""
    run, state, optimizer = session.run, session.state, session.state.optimizer
    lr = optimizer.set_lr(run.schedule.lr_multiplier(step, session.plan.steps) * state.plateau.scale)
    optimizer.zero_grad()
    loss, diagnostics = gradient(session, step, tasks, weight)
    for part in optimizer.parts:
        state.scaler.unscale_(part)
    gradients = optimizer.gradients()
    norm = float(torch.nn.utils.get_total_norm(gradients))
    finite = math.isfinite(loss) and math.isfinite(norm)
    entry: StepEntry = {
        "step": step + 1,
        "epoch": session.plan.epoch(step + 1),
        "loss": loss if finite else None,
        "gradient_norm": norm if finite else None,
        "lr": lr,
        "weight": weight,
        "digest": _digest(session, step, loss, norm),
    }
    if not finite:
        entry["skipped"] = _refuse(session, step, loss)
        return entry
    if run.clip is not None and norm > run.clip:
        torch._foreach_mul_(gradients, run.clip / norm)
    for part in optimizer.parts:
        state.scaler.step(part)
    state.scaler.update()
    if state.average:
        state.average.update(run.ema.decay(step, run.batch_size))
    if diagnostics:
        state.family = session.family.adapt(state.family, diagnostics)
        entry["diagnostics"] = diagnostics
    return entry


def gradient(session: Session, step: int, tasks: list[Task], weight: float) -> tuple[float, dict[str, float]]:
    """Accumulate the gradient of total loss / weight; returns that loss and the diagnostics, over all processes."""
    run, place, state = session.run, session.distributed, session.state
    objective = session.family.objective.for_step(step)
    total = torch.zeros((), dtype=torch.float64, device=place.device)
    sums: dict[str, Tensor] = {}
    if not session.network.training:
        session.network.train()
    for index, task in enumerate(tasks):
        keys.seed_torch(run.seed, "dropout", step, index, place.rank)
        with place.syncing(session.network, last=index == len(tasks) - 1):
            with place.autocast():
                terms = objective.loss(session.network, task.to(place.device), state.family)
            # DistributedDataParallel averages over processes; the weight is that of all of them, so undo the mean.
            torch.autograd.backward(state.scaler.scale(terms.total_B.sum() * (place.world_size / weight)))
        total += terms.total_B.detach().sum(dtype=torch.float64)
        for name, pair in terms.diagnostics.items():
            sums[name] = sums.get(name, torch.zeros_like(pair)) + pair.detach()
    return float(place.all_reduce_(total)) / weight, averaged(sums, place)


def _refuse(session: Session, step: int, loss: float) -> str:
    """Event 4, when the loss or the gradient is not finite: skip within the budget, or stop."""
    run, state = session.run, session.state
    scale = state.scaler.get_scale()
    state.scaler.update()  # every step ends with it (and it does nothing but in fp16)
    if run.precision == "fp16" and math.isfinite(loss) and scale > 1:
        return "overflow"  # of the scaled gradient: routine in fp16, the scale has just been lowered
    ids = session.order.ids(step * run.batch_size, (step + 1) * run.batch_size)
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


def _digest(session: Session, step: int, loss: float, norm: float) -> str:
    """A digest of the step in 16 digits: its examples, its loss and its gradient norm, to the last bit."""
    ids = session.order.ids(step * session.run.batch_size, (step + 1) * session.run.batch_size)
    return hashlib.blake2b(f"{ids} {loss.hex()} {norm.hex()}".encode(), digest_size=8).hexdigest()


def _validate(session: Session) -> tuple[dict[str, Any], bool]:
    """Event 7. Returns the record, and whether any kind of weights is the best so far.

    Raises TrainingStopped if the loss is not finite: nothing that is trained from here on would be of use.
    """
    run, state, objective = session.run, session.state, session.family.objective
    epoch = session.plan.epoch(state.step)
    sys.audit(phases.VALIDATE, state.step)
    networks = {"raw": state.network} | ({"ema": state.average.network} if state.average else {})
    began = time.perf_counter()
    record: dict[str, Any] = {}
    improved = False
    for weights, network in networks.items():
        score = validate(
            objective,
            network,
            state.family,
            session.corpus.validation,
            chosen_examples(len(session.corpus.validation), run.eval_examples, run.seed),
            seed=run.seed,
            batch_size=4 * (run.micro_batch or run.batch_size),  # no activations are kept, so more fit
            draws=objective.measure.draws or 1,
            distributed=session.distributed,
        )
        record[weights] = score.record(objective.measure)
        best = state.best.get(weights)
        value = score.measured(run.best_metric, objective.measure)
        sign = objective.measure.metrics.get(run.best_metric, -1)
        known = best if best is not None and best.metric == run.best_metric else None
        if math.isfinite(score.loss) and math.isfinite(value) and (known is None or sign * value > sign * known.value):
            error = record[weights]["standard_error"]
            state.best[weights] = BestRecord(
                state.step, score.loss, error, score.examples, score.draws, run.best_metric, value, epoch
            )
            improved = True
    state.plateau.observe(run.schedule, score.loss)  # the averaged weights where there are some
    session.validation, session.validated = record, state.step
    seconds = round(time.perf_counter() - began, 6)
    session.record({"step": state.step, "epoch": epoch, "validation": record, "time": {"seconds": seconds}})
    _refuse_validation(session, record)
    _warn(session, record)
    return record, improved


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
    """Event 8, on rank 0 only: its random numbers are keyed apart from those of training.

    Raises TrainingStopped if the weights have diverged.
    """
    if has_diverged(session.state.average.network if session.state.average else session.state.network):
        _stop(session, f"the weights are not finite at step {session.state.step}")
    if session.distributed.is_main and session.family.generator:
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
