"""What the records of a run say about each other: checkpoints, journal, options, learning rates, digests."""

from collections.abc import Iterator
from pathlib import Path

from seedfast.loop.config import changes
from seedfast.loop.left_out import batch_of
from seedfast.loop.session import Session
from seedfast.loop.step import digest
from seedfast.optim.lr_schedule import Plateau
from seedfast.options import may_change
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.untrusted import regular
from seedfast.verify.finding import Finding
from seedfast.verify.past import Past

_SHOWN = 3  # faults of a kind that are named


def stored_records(past: Past) -> Iterator[Finding]:
    """What can be said without the data: nothing is computed."""
    yield _finding("checkpoints", _checkpoints(past), f"{len(past.checkpoints)} are as they were committed")
    yield _finding("journal", _journal(past), f"{len(past.steps)} steps, each once and in order")
    yield _finding("options", _options(past), "the same in run.yaml and in all checkpoints")


def computed_records(past: Past, session: Session) -> Iterator[Finding]:
    """What follows from the options and the order of the examples, for every line of the journal."""
    rates, digests = list(_rates(past, session)), list(_digests(past, session))
    yield _finding("rates", rates, "every learning rate is that of the schedule")
    yield _finding("order", digests, "every digest is that of the examples in their order, the loss and the norm")


def _finding(name: str, wrong: "Iterator[str] | list[str]", fine: str) -> Finding:
    found = list(wrong)
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return Finding(name, not found, "; ".join([*found[:_SHOWN], *more]) or fine)


def _checkpoints(past: Past) -> Iterator[str]:
    """Damage, and steps or data that differ between the files of a checkpoint."""
    for checkpoint in Checkpoints(past.folder).committed():
        if problems := checkpoint.problems():
            yield f"{checkpoint.folder.name}: {problems[0]}"
            continue
        name, manifest, state = checkpoint.folder.name, checkpoint.manifest, checkpoint.state
        if not checkpoint.step == manifest.step == state.step:
            yield f"{name} is the state of step {state.step}"
        if manifest.fingerprint != checkpoint.fingerprint.digest:
            yield f"{name} names other data in its manifest than in data.json"
        if checkpoint.fingerprint.digest != past.checkpoints[-1].fingerprint.digest:
            yield f"{name} was trained on other data than the last checkpoint"


def _journal(past: Past) -> Iterator[str]:
    """Steps that are missing or doubled, lines that a checkpoint does not know, and an early end."""
    numbers = [line["step"] for line in past.lines if "loss" in line]
    if numbers != list(range(1, len(numbers) + 1)):
        first = next(
            n for n, (a, b) in enumerate(zip([*numbers, None], range(1, len(numbers) + 2), strict=True), 1) if a != b
        )
        yield f"its {first}th step is not step {first}"
    newest, run = past.checkpoints[-1], past.stored(past.folder)
    if len(numbers) < newest.step:
        yield f"it has {len(numbers)} steps, and the newest checkpoint is of step {newest.step}"
    if newest.step < run.steps and run.patience is None:
        yield f"the run is to have {run.steps} steps, and its newest checkpoint is of step {newest.step}"
    ends = _ends(past.folder)
    for checkpoint in past.checkpoints:
        if checkpoint.manifest.journal and ends.get(checkpoint.manifest.journal) != checkpoint.step:
            yield f"it is not the journal that {checkpoint.folder.name} was committed with"


def _ends(folder: Path) -> dict[int, int]:
    """The step of each line by the byte at which the line ends."""
    steps = (entry["step"] for entry in journal.read(folder))
    ends, end = {}, 0
    with regular(folder / "journal.jsonl", folder).open("rb") as lines:
        for line, step in zip(lines, steps, strict=False):
            end += len(line)
            ends[end] = step
    return ends


def _options(past: Past) -> Iterator[str]:
    """Options that differ between the run and its checkpoints, of those that make it another run.

    A continued run may have another length or leave out other examples; its newest checkpoint has the same ones.
    """
    run = past.stored(past.folder)
    harmless, of_all = may_change(run), {"skip", "without", "steps"}
    for checkpoint in past.checkpoints:
        for key, (then, now) in changes(past.stored(checkpoint.folder), run).items():
            if key not in harmless or (key in of_all and checkpoint is past.checkpoints[-1]):
                yield f"{key} is {now} in run.yaml and {then} in {checkpoint.folder.name}"


def _rates(past: Past, session: Session) -> Iterator[str]:
    """Lines whose learning rate is not that of the schedule."""
    plateau, optimizer = Plateau(), session.state.optimizer
    for step, line in sorted(past.steps.items()):
        runs = [run for run in past.runs_of(step) if run.optimizer == session.run.optimizer]
        expected = [optimizer.set_lr(run.schedule.lr_multiplier(step - 1, run.steps) * plateau.scale) for run in runs]
        if isinstance(line["lr"], dict) and expected and line["lr"] not in expected:
            yield f"step {step} has the learning rate {line['lr']}, and the schedule gives {expected[0]}"
        if score := past.validations.get(step):
            loss = score["ema" if "ema" in score else "raw"]["loss"]
            if loss is not None:
                plateau.observe(session.run.schedule, float(loss))


def _digests(past: Past, session: Session) -> Iterator[str]:
    """Lines whose digest is not that of their examples, loss and gradient norm."""
    size = session.run.batch_size
    for step, line in sorted(past.steps.items()):
        if line["loss"] is None or line["gradient_norm"] is None:
            continue
        firsts = {batch_of(run.skip, step - 1) * size for run in past.runs_of(step)}
        orders = [session.order.ids(first, first + size) for first in firsts]
        loss, norm = float(line["loss"]), float(line["gradient_norm"])
        if line["digest"] not in [digest(ids, loss, norm) for ids in orders]:
            yield f"the digest of step {step} is not that of its examples, loss and gradient norm"
