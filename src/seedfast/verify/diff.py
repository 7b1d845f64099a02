"""Where two runs part, and why: the first step that differs, and the first part of it that does.

The journals name the first line that differs. What led to it is found by computing both runs again, side by side, from
the last checkpoint that they have in common (or from the seed), and comparing each part of each step to the last bit.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seedfast.console import track
from seedfast.errors import TrainingStopped, UserError
from seedfast.families.family import Task
from seedfast.loop.config import Run, changes, settings
from seedfast.loop.plain_config import plain
from seedfast.loop.session import Session
from seedfast.loop.tasks import step_batches
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.tensors import Groups
from seedfast.verify.past import Line, Past, stored_state

Cause = Literal[
    "examples", "noise", "weights", "forward", "gradient", "optimizer", "average", "validation", "journal", "unknown"
]
"""In the order of a step, the first part that differs.

examples: which examples, or what is in them. noise: masks, times, noise: what the task asks about the same examples.
weights: the state before the step, although no step computes it so. forward: the loss of the same task under the same
weights: dropout, code, precision. gradient: the gradient as the optimizer receives it, clipped. optimizer: the update
by the same gradient: rate, decay, moments. average: the averaged weights alone. validation: that of equal weights.
journal: a line that the run did not compute. unknown: the runs cannot be computed again here.
"""

_MEANINGS: dict[str, str] = {
    "examples": "the steps are of other examples",
    "noise": "the examples are the same, and their noise, masks or times differ",
    "weights": "the state before the step differs",
    "forward": "task and weights are the same, and their loss differs",
    "gradient": "the loss is the same, and the gradient that the optimizer receives differs",
    "optimizer": "the gradient is the same, and the update differs",
    "average": "the weights are the same, and their average differs",
    "validation": "the weights are the same, and their validation differs",
    "journal": "the journal of a run has a line that its steps do not give",
    "unknown": "what it is cannot be computed here",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two runs differ.

    step: the first step, from 1, that differs; None if nothing does as far as both runs go. cause: the first part of it
    that differs; differs: all parts of it that do. start: the step from which both were computed again; None if the
    journals alone say it. common: the steps that both runs have. settings: the fields in which the runs differ. note:
    what is to be known besides.
    """

    step: int | None
    cause: Cause | None = None
    differs: Sequence[Cause] = ()
    start: int | None = None
    common: int
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    note: str | None = None

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.step is None or self.cause is None:
            return f"no difference in {self.common} common steps"
        return f"step {self.step} is the first that differs, in {self.cause}: {_MEANINGS[self.cause]}"

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "step": self.step,
            "cause": self.cause,
            "differs": list(self.differs),
            "from": self.start,
            "common_steps": self.common,
            "settings": {key: list(pair) for key, pair in self.settings.items()},
            "note": self.note,
        }


def diff(one: Past, other: Past) -> Difference:
    """The first step at which two runs differ, and the part of it that does. Raises UserError for a damaged journal."""
    runs = [past.runs_of(max(past.steps, default=1))[0] for past in (one, other)]
    common = min(max(past.steps, default=0) for past in (one, other))
    found = Difference(step=None, common=common, settings=_fields(*runs))
    line = _first_line(one, other)
    until = line or common
    pairs = _common_checkpoints(one, other, until)
    equal = [pair for pair in pairs if _state(pair[0]) == _state(pair[1])]
    if line is None and pairs and equal and equal[-1] == pairs[-1] and pairs[-1][0].step == common:
        step = _first_validation(one, other)  # the states at the end are equal, to which all steps lead
        return replace(found, step=step, cause="validation", differs=("validation",)) if step else found
    start = max((pair for pair in equal if pair[0].step < until), key=lambda pair: pair[0].step, default=None)
    first = start[0].step if start else 0
    unequal = next((pair for pair in pairs if first < pair[0].step < until and pair not in equal), None)
    try:
        parts = _Side(one, other, start).parts(unequal[0].step if unequal else until)
        return replace(found, start=first, **_explained(parts, one, other, unequal, line))
    except (UserError, TrainingStopped) as error:
        note = f"the runs cannot be computed again ({error})"
        if line is None:
            return replace(found, note=note)
        return replace(found, step=line, **_by_journal(one.steps.get(line), other.steps.get(line)), note=note)


def _fields(one: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    """The fields in which two runs differ. Fields of other classes are compared by name."""
    if type(one.objective) is type(other.objective):
        return changes(one, other)
    before, after = settings(one), settings(other)
    assert plain(one)
    return {k: (before.get(k), after.get(k)) for k in sorted(before | after) if before.get(k) != after.get(k)}


def _first_line(one: Past, other: Past) -> int | None:
    """The first step whose lines differ in the journals. Validations and samples are no steps."""
    both = one.steps.keys() & other.steps.keys()
    return next((step for step in sorted(both) if one.steps[step] != other.steps[step]), None)


def _first_validation(one: Past, other: Past) -> int | None:
    """The first step whose validations differ in the journals."""
    for step in sorted(one.validations.keys() & other.validations.keys()):
        left, right = one.validations[step], other.validations[step]
        if left.keys() != right.keys() or any(_differ(left[kind], right[kind]) for kind in left):
            return step
    return None


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scores differ. Earlier versions have no blocks, and another formula of the error."""
    keys = one.keys() | other.keys()
    if ("blocks" in one) != ("blocks" in other):
        keys -= {"blocks", "standard_error"}
    return any(one.get(key) != other.get(key) for key in keys)


def _common_checkpoints(one: Past, other: Past, until: int) -> list[tuple[Checkpoint, Checkpoint]]:
    """The checkpoints of the same step in both runs, oldest first."""
    steps = {each.step: each for each in other.checkpoints}
    return [(each, steps[each.step]) for each in one.checkpoints if each.step in steps and each.step <= until]


def _state(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The hash of each file of tensors."""
    files = checkpoint.manifest.files.items()
    return {name: digest["sha256"] for name, digest in files if name.endswith(".safetensors")}


@dataclass(frozen=True)
class _Parts:
    """The step, from 1, in which two recomputed runs first differ, and in what: nothing, where they are equal up to it.

    states: the tensors of both after the last computed step. lines: the journal lines of it.
    """

    step: int
    differs: Sequence[Cause]
    states: tuple[Groups, Groups]
    lines: tuple[Line, Line] | None


@dataclass(frozen=True)
class _Side:
    """Two runs side by side. start: the checkpoints, equal to each other, from which they are computed again."""

    one: Past
    other: Past
    start: tuple[Checkpoint, Checkpoint] | None

    def parts(self, until: int) -> _Parts:
        """The first step up to `until` in which both differ. Raises UserError if a run cannot be computed."""
        first = self.start[0].step if self.start else 0
        with ExitStack() as stack:
            one, other = (
                stack.enter_context(past.session(past.runs_of(first + 1)[0], self.start[place] if self.start else None))
                for place, past in enumerate((self.one, self.other))
            )
            lines = None
            for step in track("Comparing", range(first, until), until - first):
                before: list[Cause] = [] if equal(tensors_of(one), tensors_of(other)) else ["weights"]
                asked = _asked(one, other, step)
                lines = self.one.compute(one, step), self.other.compute(other, step)
                found = [*asked, *before]
                if not found:
                    found = _computed(one, other, *lines)
                if found:
                    return _Parts(step + 1, found, (tensors_of(one), tensors_of(other)), lines)
            return _Parts(until, (), (tensors_of(one), tensors_of(other)), lines)


def _asked(one: Session, other: Session, step: int) -> list[Cause]:
    """Whether two sessions take other examples or ask other tasks about them."""
    if one.run.batch_size != other.run.batch_size or one.ids(step) != other.ids(step):
        return ["examples"]
    ours, theirs = list(step_batches(one, step)), list(step_batches(other, step))
    if [len(task.weight_B) for _, task in ours] != [len(task.weight_B) for _, task in theirs]:
        return []  # only the micro-batches differ
    pairs = list(zip(ours, theirs, strict=True))
    left_out = set(one.run.without) ^ set(other.run.without)
    if left_out.intersection(one.ids(step)) or not all(_same(a, b) for (a, _), (b, _) in pairs):
        return ["examples"]
    return [] if all(_same_task(a, b) for (_, a), (_, b) in pairs) else ["noise"]


def _same_task(one: Task, other: Task) -> bool:
    ours, theirs = list(one.tensors()), list(other.tensors())
    return len(ours) == len(theirs) and all(map(_bits_equal, ours, theirs))


def _computed(one: Session, other: Session, ours: Line, theirs: Line) -> list[Cause]:
    """The first part of a computed step that differs, where examples, noise and weights are the same."""
    if ours["loss"] != theirs["loss"] or ours["weight"] != theirs["weight"]:
        return ["forward"]
    gradients = [dict(enumerate(each.state.optimizer.gradients())) for each in (one, other)]
    if ours["gradient_norm"] != theirs["gradient_norm"] or not _same(*gradients):
        return ["gradient"]
    before, after = tensors_of(one), tensors_of(other)
    if ours["lr"] != theirs["lr"] or not equal(before, after, "model", "optimizer"):
        return ["optimizer"]
    if not equal(before, after, "ema"):
        return ["average"]
    return [] if equal(before, after) else ["forward"]  # the adaptive state follows the diagnostics of the loss


def _explained(
    parts: _Parts, one: Past, other: Past, unequal: tuple[Checkpoint, Checkpoint] | None, line: int | None
) -> dict[str, Any]:
    """What the comparison says: step, cause, all that differs, and a note."""
    if parts.differs:
        ordered = sorted(parts.differs, key=get_args(Cause).index)
        return {"step": parts.step, "cause": ordered[0], "differs": ordered}
    if unequal:  # both compute the same state, and one of them has another
        for checkpoint, state in zip(unequal, parts.states, strict=True):
            if not equal(stored_state(checkpoint), state):
                note = f"{checkpoint.folder} does not hold the weights that the steps before it lead to"
                return {"step": checkpoint.step + 1, "cause": "weights", "differs": ["weights"], "note": note}
    if line is None:
        step = _first_validation(one, other)
        return {"step": step, "cause": "validation" if step else None, "differs": ["validation"] if step else []}
    wrong = [
        str(past.folder)
        for past, computed in zip((one, other), parts.lines or (), strict=False)
        if any(past.steps[line].get(key) != computed.get(key) for key in ("digest", "loss", "gradient_norm", "lr"))
    ]
    note = f"{' and '.join(wrong)}: computed again from the same state, step {line} gives another line"
    cause = "journal" if all(_leads_on(past, line) for past in (one, other) if str(past.folder) in wrong) else "weights"
    return {"step": line, "cause": cause, "differs": [cause], "note": note}


def _leads_on(past: Past, step: int) -> bool:
    """Whether the steps of a run lead to its first checkpoint from a step on: then only its journal is wrong there."""
    later = next((each for each in past.checkpoints if each.step >= step), None)
    if later is None:
        return True
    with past.session(past.runs_of(step)[0], past.before(step)) as session:
        past.advance(session, later.step)
        return equal(stored_state(later), tensors_of(session))


def _by_journal(one: Line | None, other: Line | None) -> dict[str, Any]:
    """What two lines say by themselves."""
    cause: Cause = "unknown"
    if one and other:
        if one["loss"] == other["loss"] and one["weight"] == other["weight"]:
            if one["gradient_norm"] == other["gradient_norm"]:
                cause = "examples" if one["lr"] == other["lr"] else "optimizer"
            elif one["step"] > 1:  # a new network may answer alike to all examples, so equal losses tell nothing yet
                cause = "gradient"
        elif one["weight"] != other["weight"]:
            cause = "examples"
    return {"cause": cause, "differs": [cause]}


def tensors_of(session: Session) -> Groups:
    """All tensors of a session that steps change, on their device."""
    return session.state.tensors()


def equal(one: Groups, other: Groups, *groups: str) -> bool:
    """Whether the tensors of these groups (without arguments: of all) are equal to the last bit."""
    names = groups or tuple(one.keys() | other.keys())
    return all(_same(one.get(name, {}), other.get(name, {})) for name in names)


def _same(one: Mapping[Any, Tensor], other: Mapping[Any, Tensor]) -> bool:
    return one.keys() == other.keys() and all(_bits_equal(one[name], other[name]) for name in one)


def _bits_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits: -0.0 is not 0.0, and NaN equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    ours, theirs = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    if not ours.numel():
        return True
    return torch.equal(ours.view(-1).view(torch.uint8), theirs.view(-1).view(torch.uint8))
