"""A run folder opened to be read: its journal, its checkpoints, and its training state before any step.

Nothing is ever written into the folder. Every step is computed by the loop's own functions, from the nearest committed
checkpoint or from the seed.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from seedfast import keys
from seedfast.console import track
from seedfast.data.dataset import describe_difference
from seedfast.errors import UserError
from seedfast.loop.build import build
from seedfast.loop.config import Run, changes
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.placement.placement import Placement
from seedfast.loop.session import Session, data_of, stored_run
from seedfast.loop.step import launch
from seedfast.loop.tasks import step_tasks
from seedfast.optim.ema import Average
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import run_folder_of
from seedfast.run_folder.records import CheckpointManifest
from seedfast.run_folder.tensors import FROZEN, Groups
from seedfast.run_folder.train_state import NoLargerThan, load_network, network_tensors
from seedfast.threads import threads
from seedfast.user_code import named_by

_THREADS = 256  # the most that a run folder can ask for
_MISSING = 1000  # lines of steps that may be missing; a stranger's step may be any number
_LARGEST = 1 << 53  # of integers, all of which are floats

Line = Mapping[str, Any]
"""A line of the journal without its `time`, or what a recomputed step would have written there."""


def timeless(entry: Mapping[str, Any]) -> Line:
    """The part of a journal line that is a function of the run and the step."""
    return {key: value for key, value in entry.items() if key != "time"}


@dataclass(frozen=True)
class Past:
    """The past of a run. template: a run of the same recipe. data: where the data is now, if it has moved."""

    folder: Path
    template: Run
    trust: bool = False
    data: str | None = None
    device: str | None = None

    @cached_property
    def lines(self) -> list[Line]:
        """The lines of the journal. Raises UserError for a damaged one."""
        found = [_checked(timeless(entry), self.folder) for entry in journal.read(self.folder)]
        last = max((line["step"] for line in found), default=0)
        if last > 2 * len(found) + _MISSING:
            raise UserError(f"{self.folder / 'journal.jsonl'} has {len(found)} lines, one of step {last}: restore it.")
        return found

    @cached_property
    def steps(self) -> dict[int, Line]:
        """The line of each step, from 1."""
        return {line["step"]: line for line in self.lines if "loss" in line}

    @cached_property
    def validations(self) -> dict[int, Mapping[str, Any]]:
        """The scores of each validation by kind of weights, by its step."""
        return {line["step"]: line["validation"] for line in self.lines if "validation" in line}

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The committed checkpoints whose records can be read, oldest first; tensors are verified when they are used.

        Raises UserError if there is none.
        """
        found = [each for each in Checkpoints(self.folder).committed() if _is_readable(each)]
        if not found:
            raise UserError(f"{self.folder} has no checkpoint that can be read; train a run there first.")
        return found

    def before(self, step: int) -> Checkpoint | None:
        """The newest intact checkpoint from which step `step` (1, 2, …) can be computed; None: only from the seed."""
        return next((each for each in reversed(self.checkpoints) if each.step < step and each.open() == []), None)

    def runs_of(self, step: int) -> list[Run]:
        """The run by whose options a step (1, 2, …) was computed; two where a session may have changed them before it.

        A checkpoint holds the options of the steps that led to it.
        """
        later = next((each.folder for each in self.checkpoints if each.step >= step), self.folder)
        earlier = self.before(step)
        places = later, earlier.folder if earlier else later
        if places not in self._runs:
            runs = [self.stored(place) for place in places]
            self._runs[places] = runs if changes(*runs) else runs[:1]
        return self._runs[places]

    def stored(self, place: Path) -> Run:
        """The run that the run folder or the folder of a checkpoint holds."""
        return stored_run(self.template, place)

    @cached_property
    def _runs(self) -> dict[tuple[Path, Path], list[Run]]:
        return {}

    @property
    def manifest(self) -> CheckpointManifest:
        """That of the newest checkpoint."""
        return self.checkpoints[-1].manifest

    @property
    def elsewhere(self) -> str | None:
        """How the hardware and the software of the run differ from those at hand, in words; None if they do not."""
        from seedfast.version import VERSION

        device = self.device or self.template.device
        here = {
            "device": "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda",
            "processes": 1,
            "torch": torch.__version__,
            "seedfast": VERSION,
        }
        topology, versions = self.manifest.topology, self.manifest.versions
        then = {**topology, **versions, "device": str(topology.get("device", "")).partition(":")[0]}
        found = [f"{key} {then[key]}, here {value}" for key, value in here.items() if then.get(key, value) != value]
        return "; ".join(found) or None

    @contextmanager
    def session(self, run: Run, checkpoint: Checkpoint | None) -> Iterator[Session]:
        """The training state of a checkpoint, or of the start of the run (None), computed from the seed.

        The session has no journal and its folder is a temporary one. Raises UserError if the data or the code of the
        run is not what it was.
        """
        origin = checkpoint or self.checkpoints[0]
        with ExitedFolder() as place, self._threads(), named_by(self.folder, trust=self.trust):
            distributed = DistributedContext.single(self.device or run.device, run.precision)
            run = replace(run, data=data_of(run, origin))
            if self.data is not None:
                run = replace(run, data=run.data.with_path(self.data))
            session = build(run, Checkpoints(place), origin, Placement(distributed), None)
            if session.journal:
                session.journal.close()
            before, now = origin.fingerprint, session.corpus.fingerprint
            if before.digest != now.digest:
                raise UserError(
                    f"The data is not what {self.folder} was trained on ({describe_difference(before, now)}): restore "
                    "it, or pass --data with its place."
                )
            if checkpoint:
                _refuse_damage(checkpoint)
                try:
                    session.state.read(checkpoint)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    raise UserError(f"{checkpoint.folder} does not fit its own run.yaml: {error}.") from error
            else:
                _start(session, origin)
            objective = session.family.objective
            session.corpus = objective.cache_frozen_features(session.state.network, session.corpus)
            yield session

    def _threads(self) -> AbstractContextManager[None]:
        """As many threads as the run had: another number adds in another order."""
        then = self.manifest.topology.get("threads")
        return threads(then) if isinstance(then, int) and 0 < then <= _THREADS else nullcontext()

    def advance(self, session: Session, step: int) -> Line | None:
        """Compute the steps up to `step` (1, 2, …); returns the line of the last one, None if none was computed."""
        line = None
        for number in track("Recomputing", range(session.state.step, step), max(0, step - session.state.step)):
            line = self.compute(session, number)
        return line

    def compute(self, session: Session, step: int) -> Line:
        """Compute step `step` (0, 1, …) of a session that is there; returns its line of the journal."""
        tasks = step_tasks(session, step)
        entry = launch(session, step, tasks, float(session.summation.weight(tasks))).entry(session)
        session.state.step = step + 1
        if score := self.validations.get(step + 1):  # which the plateau schedule observes
            loss = score["ema" if "ema" in score else "raw"]["loss"]
            session.state.plateau.observe(session.run.schedule, math.nan if loss is None else float(loss))
        return json.loads(json.dumps(entry))  # type: ignore[no-any-return]  # as it is read back from the journal


class ExitedFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder as a path."""

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


def opened(folder: Path, stored: Callable[[Path], Run], **options: Any) -> Past:
    """The past of the run in a folder, or of the run that a checkpoint belongs to.

    stored: opens the run in the folder of a checkpoint. Raises UserError if there is none.
    """
    if not folder.exists():
        raise UserError(f"There is no folder {folder}.")
    place = run_folder_of(folder)
    newest = Checkpoints(place).newest()
    if newest is None:
        raise UserError(f"{place} has no checkpoint; train a run there first.")
    if not (place / "journal.jsonl").exists():
        raise UserError(f"{place} has no journal.jsonl to compare with: name the whole run folder.")
    return Past(place, stored(newest.folder), **options)


def _start(session: Session, origin: Checkpoint) -> None:
    """Give a session the weights that the run began with: new ones by the seed, or the pretrained ones it names."""
    run, state = session.run, session.state
    with torch.random.fork_rng():
        keys.seed_torch(run.seed, "init")
        with NoLargerThan(origin):
            network = session.family.objective.network(run.model)
        run.model.initialise(network)
    load_network(state.network, network_tensors(network))
    if state.average:
        state.average = Average(state.network)


def stored_state(checkpoint: Checkpoint) -> Groups:
    """The tensors of a checkpoint that steps change, verified. Raises UserError if they are damaged."""
    _refuse_damage(checkpoint)
    try:
        return {group: tensors for group, tensors in checkpoint.tensors().items() if group != FROZEN}
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint.folder} cannot be read: {error}.") from error


def _refuse_damage(checkpoint: Checkpoint) -> None:
    if problems := checkpoint.open():
        raise UserError(f"{checkpoint.folder} is damaged: {problems[0]}.")


def _is_readable(checkpoint: Checkpoint) -> bool:
    try:
        _ = checkpoint.manifest, checkpoint.state, checkpoint.fingerprint
    except (OSError, ValueError):
        return False
    return True


_KINDS: dict[str, Any] = {
    "loss": float | int | None, "gradient_norm": float | int | None, "lr": dict | float, "weight": float | int,
    "digest": str, "validation": dict,
}  # fmt: skip


def _checked(line: Line, folder: Path) -> Line:
    """The same line. Raises UserError if one of its values is of another kind: the folder may be a stranger's."""
    wrong = next((key for key, kind in _KINDS.items() if key in line and not isinstance(line[key], kind)), None)
    if "loss" in line and not {"gradient_norm", "lr", "weight", "digest"} <= line.keys():
        wrong = "loss"
    numbers = (line.get(key) for key in ("loss", "gradient_norm", "weight"))
    if any(isinstance(number, int) and abs(number) > _LARGEST for number in numbers):
        wrong = "number"
    if wrong is None and "validation" in line and not _are_scores(line["validation"]):
        wrong = "validation"
    if wrong:
        raise UserError(
            f"{folder / 'journal.jsonl'} has a line of step {line['step']} whose {wrong} is none; restore it."
        )
    return line


def _are_scores(validation: Mapping[str, Any]) -> bool:
    """Whether a validation has a loss for each kind of weights."""
    scores = [score for score in validation.values() if isinstance(score, dict)]
    return (
        len(scores) == len(validation)
        and bool({"raw", "ema"} & validation.keys())
        and all(isinstance(score.get("loss", ""), float | None) for score in scores)
        and all(isinstance(score.get("diagnostics", {}), dict) for score in scores)
    )
