"""One optimizer step. The host launches it and never waits for the device: `Update.entry` reads the numbers later.

Whether the step is finite is decided on the device, where an update that is not finite changes nothing.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seedfast import keys
from seedfast.families.family import Task
from seedfast.loop import memory
from seedfast.loop.captured import is_capturing
from seedfast.loop.diagnostics import Sums, Totals
from seedfast.loop.left_out import refuse_nothing_left
from seedfast.loop.session import Session
from seedfast.optim.shards import local, total_norm
from seedfast.optim.update_rule import Number
from seedfast.run_folder.journal import StepEntry


@dataclass(frozen=True, kw_only=True)
class Update:
    """A step that has been launched: what the host knows of it, and what comes from the device.

    sums: the loss, as a total over all processes, and the diagnostics. norm_scale: the norm of the gradient, and the
    scale of the loss in fp16, on the host once `arrived` has passed.
    """

    step: int
    lr: dict[str, float]
    weight: float
    sums: Sums
    norm_scale: Tensor
    arrived: torch.cuda.Event | None

    def entry(self, session: Session) -> StepEntry:
        """The journal's entry. Waits until the device has come to the end of this step."""
        if self.arrived:
            self.arrived.synchronize()
        loss, norm = self.loss, self.norm
        finite = math.isfinite(loss) and math.isfinite(norm)
        entry: StepEntry = {
            "step": self.step + 1,
            "epoch": session.plan.epoch(self.step + 1),
            "loss": loss if finite else None,
            "gradient_norm": norm if finite else None,
            "lr": self.lr,
            "weight": self.weight,
            "digest": digest(session.ids(self.step), loss, norm),
        }
        if finite and (diagnostics := self.sums.averages()):
            entry["diagnostics"] = diagnostics
        return entry

    @property
    def loss(self) -> float:
        """The loss of the global batch."""
        return self.sums.first / self.weight

    @property
    def norm(self) -> float:
        """The norm of the gradient before it is clipped."""
        return float(self.norm_scale[0])

    @property
    def scale(self) -> float:
        """The factor by which fp16 scaled the loss of this step; 1 in other precisions."""
        return float(self.norm_scale[1])


def launch(session: Session, step: int, tasks: list[Task], weight: float) -> Update:
    """Gradient, clipping, optimizer, average of the weights and adaptive state: all of them, or none of them."""
    run, optimizer = session.run, session.state.optimizer
    refuse_nothing_left(run.without, step, weight)
    lr = optimizer.set_lr(run.schedule.lr_multiplier(step, session.plan.steps) * session.state.plateau.scale)
    decay = run.ema.decay(step, run.batch_size) if session.state.average else 0.0
    divisor, decay_there, *rates = session.numbers(weight, decay, *optimizer.rates)
    optimizer.read_rates(rates)

    def compute(tasks: list[Task]) -> tuple[Sums, Tensor]:
        return update(session, step, tasks, divisor, decay_there)

    sums, norm_scale = session.captured(compute, tasks) if session.captured else compute(tasks)
    sums, norm_scale = sums.to_host(), norm_scale.to("cpu", non_blocking=True)
    return Update(step=step, lr=lr, weight=weight, sums=sums, norm_scale=norm_scale, arrived=_now(session))


def update(session: Session, step: int, tasks: list[Task], weight: Number, decay: Number) -> tuple[Sums, Tensor]:
    """The work of the device in a step. Returns the sums, and the norm of the gradient with the scale of the loss."""
    run, state, optimizer = session.run, session.state, session.state.optimizer
    optimizer.zero_grad()
    scale = state.scaler.scale(torch.ones((), device=session.distributed.device))
    with memory.noticed():
        sums = gradient(session, step, tasks, weight)
    gradients = optimizer.gradients()
    session.placement.complete(gradients)
    for part in optimizer.parts:
        state.scaler.unscale_(part)  # type: ignore[arg-type]  # which has all that it needs of an optimizer
    norm = total_norm(gradients)
    finite = torch.isfinite(sums.pairs_N2[0, 0]) & torch.isfinite(norm)
    if run.clip is not None:
        factor = torch.where(norm > run.clip, run.clip / norm.double(), 1.0)
        torch._foreach_mul_([local(each) for each in gradients], factor.to(norm.dtype))
    optimizer.step(finite)
    state.scaler.update()
    if state.average:
        state.average.update(decay, finite)
    if session.family.adaptive:
        adapted = session.family.adapt(state.family, sums.ratios())
        kept = {name: torch.where(finite, new, state.family[name]) for name, new in adapted.items()}
        for name, new in kept.items():  # in place: a captured step reads and writes the same memory every time
            state.family[name].copy_(new)
    return sums, torch.stack([norm.double(), scale.double()])


def gradient(session: Session, step: int, tasks: list[Task], weight: Number) -> Sums:
    """Accumulate the gradient of total loss / weight; returns that total and the diagnostics, over all processes."""
    run, place, state, summation = session.run, session.distributed, session.state, session.summation
    objective = session.family.objective.for_step(step)
    totals = Totals(place, summation.slots)
    if not session.network.training:
        session.network.train()
    for index, task in enumerate(tasks):
        number, part = summation.numbering(index, len(tasks))
        if not is_capturing(place.device):  # a captured step has no dropout
            keys.seed_torch(run.seed, "dropout", step, number, part)
        with summation.syncing(session.network, last=index == len(tasks) - 1):
            with place.autocast():
                task = task.to(place.device)
                terms = objective.loss(session.network, task, state.family)
            total_B = torch.where(task.weight_B > 0, terms.total_B, 0.0) if run.without else terms.total_B
            torch.autograd.backward(state.scaler.scale(total_B.sum() * (summation.factor / weight)))
        summation.add(state)
        measured = {name: pair.detach() for name, pair in terms.diagnostics.items()}
        totals.add(number, measured, total_B.detach().sum(dtype=torch.float64))
    summation.finish(state)
    return totals.reduced()


def digest(ids: list[int], loss: float, norm: float) -> str:
    """A digest of the step in 16 digits: its examples, its loss and its gradient norm, to the last bit."""
    return hashlib.blake2b(f"{ids} {loss.hex()} {norm.hex()}".encode(), digest_size=8).hexdigest()


def _now(session: Session) -> torch.cuda.Event | None:
    """A mark in the work of the device; None for the CPU, which has done it by then."""
    if session.distributed.device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
