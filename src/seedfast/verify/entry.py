"""The proof of a whole run for a fraction of its price: random steps computed again, one evaluation, and every record.

A verifier who did not train the run, such as a leaderboard, chooses the steps by a seed that the trainer did not know.
Each is computed from the checkpoint before it, and every step on the way is compared too; where the way leads to the
next checkpoint, so are its tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from seedfast import keys
from seedfast.console import say
from seedfast.data.notes import Note
from seedfast.errors import TrainingStopped, UserError
from seedfast.loop.config import Run
from seedfast.loop.plain_config import to_yaml
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.tensors import Groups
from seedfast.verify.best import best_record, evaluation, scan
from seedfast.verify.diff import equal, tensors_of
from seedfast.verify.finding import Finding
from seedfast.verify.overlap import overlap
from seedfast.verify.past import Past, stored_state
from seedfast.verify.records import computed_records, stored_records
from seedfast.verify.replay import verdict

PRICE = 0.02
"""The part of the steps of a run that a proof computes by default."""
_STATE_ROUNDING = 0.05  # relative distance of states that another machine has computed


@dataclass(frozen=True)
class Route:
    """Steps that are computed one after the other. start: None for the seed. last: the last step, from 1."""

    start: Checkpoint | None
    last: int

    @property
    def first(self) -> int:
        """The step that the route starts from, which is not computed."""
        return self.start.step if self.start else 0


def prove_run(past: Past, *, steps: int, seed: int, most: int | None = None) -> Iterator[Finding]:
    """Everything that a verifier can say about a run, one finding after the other.

    steps: random steps that are checked. seed: chooses them. most: the most steps that are computed for it (default:
    2 % of the run, or `steps` if that is more). Raises UserError for a folder that cannot be read at all.
    """
    yield from stored_records(past)
    best = best_record(past)
    kind = "ema" if "ema" in best else "raw"
    at = best[kind]["step"] if kind in best else past.checkpoints[-1].step
    checkpoint = next((each for each in past.checkpoints if each.step == at), None)
    if checkpoint is None:
        yield Finding("best", False, f"the checkpoint of the best step {at} is missing")
        checkpoint = past.checkpoints[-1]
    try:
        with past.session(past.runs_of(max(1, checkpoint.step))[0], checkpoint) as session:
            yield Finding("data", True, "the data is what the run was trained on")
            yield overlap(session.corpus, seed=seed)
            yield from computed_records(past, session)
            if best and checkpoint.step == at:
                yield from scan(past, session)
                yield evaluation(past, session, checkpoint, kind)
    except UserError as error:
        yield Finding("data", False, str(error))
        return
    yield from _steps(past, at, steps=steps, seed=seed, most=most)


def _steps(past: Past, best: int, *, steps: int, seed: int, most: int | None) -> Iterator[Finding]:
    """The findings of the steps that are computed again."""
    last = max(past.steps, default=0)
    most = max(steps, round(PRICE * last)) if most is None else most
    routes, chosen = plan(past, best, steps=steps, seed=seed, most=most)
    cost = sum(route.last - route.first for route in routes)
    price = f"{cost} of {last} steps are computed again ({cost / max(1, last):.1%})"
    say(f"{price}, {len(chosen)} of them chosen by seed {seed}")
    if past.stored(past.folder).model.path:
        yield Finding("start", None, "the run began with pretrained weights, which are not checked")
    for route in routes:
        yield _start(past, route) if route.last == 0 else _followed(past, route)
    reached = {route.last for route in routes}
    if best not in reached and best:
        before = past.before(best)
        needed = best - (before.step if before else 0)
        yield Finding(
            "best chain", None, f"the {needed} steps to the best checkpoint cost more than {most}: --most {needed}"
        )


def plan(past: Past, best: int, *, steps: int, seed: int, most: int) -> tuple[list[Route], list[int]]:
    """The routes to the start, to the best checkpoint and to random steps, of `most` steps together; and those steps.

    best: the step of the best checkpoint, on which the claim depends.
    """
    ends: dict[int, int] = {}
    known = sorted(past.steps)

    def add(step: int) -> bool:
        before = past.before(step)
        first = before.step if before else 0
        far = max(ends.get(first, first), step)
        cost = sum(end - start for start, end in ends.items() if start != first) + far - first
        if cost > most or step not in past.steps:
            return False
        ends[first] = far
        return True

    pretrained = past.stored(past.folder).model.path
    has_start = any(each.step == 0 for each in past.checkpoints)
    if best:
        add(best)
    if not pretrained and not has_start:
        add(1)  # from the seed: a run may not begin with weights of its own
    chosen: list[int] = []
    size = len(known)
    order = keys.shuffle(keys.derive(seed, "verify", "steps"), torch.arange(size), size).tolist() if size else []
    for step in (known[place] for place in order):
        if len(chosen) == steps:
            break
        if (pretrained is None or past.before(step)) and add(step):
            chosen.append(step)
    at = {each.step: each for each in past.checkpoints}
    routes = [Route(at.get(first), end) for first, end in sorted(ends.items())]
    return ([Route(at[0], 0)] if has_start and not pretrained else []) + routes, chosen


def _start(past: Past, route: Route) -> Finding:
    """Whether the first checkpoint has the weights of the seed."""
    assert route.start is not None
    with past.session(past.stored(route.start.folder), None) as session:
        same = _same_state(past, route.start, tensors_of(session))
    what = (
        "the run begins with the weights of its seed" if same else "the run does not begin with the weights of its seed"
    )
    return Finding("start", same, what)


def _followed(past: Past, route: Route) -> Finding:
    """Whether the steps of a route give the lines of the journal, and lead to the next checkpoint."""
    runs = past.runs_of(route.first + 1)
    note = _note(past, route, runs)
    if (known := note.read()) is not None:
        return Finding("steps", True, f"{known} (checked before)")
    found = Finding("steps", False, "no step")
    for run in runs:  # a session may have changed the options after the checkpoint
        found = _compared(past, route, run)
        if found.holds:
            note.write(found.detail)
            break
    return found


def _compared(past: Past, route: Route, run: Run) -> Finding:
    where = f"{route.first + 1} to {route.last}" if route.last > route.first + 1 else f"{route.last}"
    start = f"from {route.start.folder.name}" if route.start else "from the seed"
    verdicts = set[str]()
    try:
        with past.session(run, route.start) as session:
            for step in range(route.first, route.last):
                line, recorded = past.compute(session, step), past.steps.get(step + 1)
                verdicts.add("different" if recorded is None else verdict(recorded, line, past.elsewhere))
                if "different" in verdicts:
                    told = "is missing" if recorded is None else f"has loss {recorded['loss']}, computed {line['loss']}"
                    return Finding("steps", False, f"step {step + 1}, {start}, {told}: it is not what was recorded")
            reached = next((each for each in past.checkpoints if each.step == route.last), None)
            if reached and not _same_state(past, reached, tensors_of(session)):
                return Finding(
                    "steps", False, f"{reached.folder.name} is not the state that its steps lead to, {start}"
                )
    except (UserError, TrainingStopped) as error:
        return Finding("steps", False, f"step {where}, {start}: {error}")
    how = "up to rounding" if "rounding" in verdicts else "to the last bit"
    chain = f", and {reached.folder.name} is the state after them" if reached else ""
    return Finding("steps", True, f"{where} {start}: equal {how}{chain}")


def _same_state(past: Past, checkpoint: Checkpoint, state: Groups) -> bool:
    """Whether a checkpoint has these tensors, up to rounding on another machine."""
    stored = stored_state(checkpoint)
    if equal(stored, state) or not past.elsewhere:
        return equal(stored, state)
    if {group: each.keys() for group, each in stored.items()} != {group: each.keys() for group, each in state.items()}:
        return False
    pairs = [
        (tensor.double(), state[group][name].double().cpu())
        for group, each in stored.items()
        for name, tensor in each.items()
    ]
    return all(float((a - b).norm()) <= _STATE_ROUNDING * float(a.norm()) for a, b in pairs)


def _note(past: Past, route: Route, runs: Sequence[Run]) -> Note:
    """The note of a route that was found right: an interrupted proof continues where it was."""
    ends = [each.manifest.seal for each in past.checkpoints if each.step in (route.first, route.last)]
    lines = [past.steps.get(step) for step in range(route.first + 1, route.last + 1)]
    facts = [torch.__version__, past.device, [to_yaml(run) for run in runs], ends, lines, route.first]
    return Note.of("verified", *facts, past.checkpoints[-1].fingerprint.digest)
