"""A session of a run: everything that the loop needs, built anew or taken up again from the newest checkpoint."""

import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import seedfast
from seedfast import keys
from seedfast.data.dataset import Corpus, DataConfig, describe_difference
from seedfast.data.sample_order import Order
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.files import FileDigest, commit, to_json
from seedfast.listeners.base import Listener, Listeners
from seedfast.listeners.hub import Upload
from seedfast.listeners.tensorboard import Board
from seedfast.listeners.wandb import WandB
from seedfast.loop.config import Run, changes, from_mapping, read_yaml, refuse_changes, settings, to_yaml
from seedfast.loop.distributed import DistributedContext
from seedfast.optim.ema import Average
from seedfast.run_folder.checkpoint import Checkpoint, Checkpoints
from seedfast.run_folder.journal import Journal
from seedfast.run_folder.lock import locked
from seedfast.run_folder.records import BestRecord
from seedfast.run_folder.train_state import TrainState


@dataclass(kw_only=True)
class Session:
    """One process's hold on a run."""

    run: Run
    folder: Path
    distributed: DistributedContext
    corpus: Corpus
    family: Family
    network: nn.Module  # as the loss calls it: wrapped for several processes
    state: TrainState
    order: Order
    checkpoints: Checkpoints
    journal: Journal | None  # only the leading process has one
    listeners: Listener = field(default_factory=Listener)  # the same: who is told what the journal is told
    noted: str = ""  # the event of the newest note
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # against the stored run: name → (old, new)
    validation: dict[str, Any] | None = None  # the newest record, of step `validated`
    validated: int = 0
    committed_best: dict[str, BestRecord] = field(default_factory=dict)  # what a failed save falls back to

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of itself: with what it was computed, on which data, and in which units."""
        return {
            "versions": {
                "seedfast": seedfast.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "topology": {
                "device": str(self.distributed.device),
                "processes": self.distributed.world_size,
                "threads": torch.get_num_threads(),
            },
            "fingerprint": self.corpus.fingerprint.digest,
            "measure": self.family.objective.measure.as_json(),
        }

    def save(self) -> None:
        """Commit the state, and everything that is needed to use it alone. Raises OSError."""
        if self.journal:
            self.journal.flush()
        facts = {
            **self.facts,
            "journal": self.journal.size if self.journal else 0,
            "validation": self.validation if self.validation and self.validated == self.state.step else None,
        }
        self.checkpoints.save(self.state.step, self._write, facts)
        self.committed_best = dict(self.state.best)
        self.point()
        self.tell_best()

    def tell_best(self) -> None:
        """Tell the listeners which committed checkpoint is the best, if any is."""
        if best := self.state.best.get("ema" if self.state.average else "raw"):
            self.listeners.best(best.step)

    def point(self) -> None:
        """Make the pointers and the retained checkpoints those of this state. Doing it twice changes nothing."""
        keys = {"seed": self.run.seed, "stream": "eval"}
        best = {weights: {**asdict(record), **keys} for weights, record in self.state.best.items()}
        self.checkpoints.update_pointers(self.state.step, best)

    def record(self, entry: dict[str, Any]) -> None:
        """Write a line to the journal, and tell the listeners; only the leading process does."""
        if self.journal:
            self.journal.record(entry)
            self.listeners.line(entry)

    def note(self, event: str, **facts: Any) -> None:
        """Write to the run's events what happened to it; only the leading process does."""
        self.noted = event
        if self.journal:
            self.journal.event(event, step=self.state.step, **facts)

    def warn(self, reason: str) -> None:
        """Say on stderr, and note, what does not stop the training."""
        print(f"seedfast: WARNING: {reason}", file=sys.stderr)
        self.note("warning", reason=reason)

    def _write(self, folder: Path) -> Mapping[str, FileDigest]:
        sys.audit("seedfast.save", self.state.step)
        beside = self.state.write(folder)
        (folder / "run.yaml").write_text(to_yaml(self.run))
        (folder / "data.json").write_text(to_json(asdict(self.corpus.fingerprint)))
        (folder / "assets").mkdir()
        self.corpus.assets.save(folder / "assets")
        return beside


@contextmanager
def session(
    run: Run,
    folder: Path,
    *,
    allow_change: tuple[str, ...] = (),
    at: int | None = None,
    initialise: Callable[[Any], None] | None = None,
) -> Iterator[Session]:
    """Open a run folder for training: a new one, or the continuation of the run that it holds.

    allow_change: fields that may differ from the stored run although that changes its meaning.
    at: continue from the checkpoint of this step instead of the newest.
    initialise: gives a new run's network its weights (imported ones), after the keyed initialisation; by default, what
        the network's own configuration does, if it does (it reads pretrained ones).
    Raises UserError for a folder that is not a run's or is in use, another run's or changed data, damaged checkpoints.
    """
    distributed = DistributedContext.join(run.device, run.precision)
    if run.batch_size % distributed.world_size:
        raise UserError(f"batch_size {run.batch_size} cannot be shared evenly by {distributed.world_size} processes.")
    with ExitStack() as stack:
        stack.callback(distributed.finish)
        if distributed.is_main:
            _claim(folder)
            stack.enter_context(locked(folder))
        distributed.barrier()
        checkpoints = Checkpoints(folder, keep=run.keep)
        checkpoint = distributed.broadcast(checkpoints.newest(at=at) if distributed.is_main else None)
        opened = _build(run.located(), checkpoints, checkpoint, distributed, initialise)
        if opened.journal:
            stack.enter_context(opened.journal)
        if checkpoint:
            _resume(opened, checkpoint, allow_change)
        else:
            _start(opened)
        opened.corpus = opened.family.objective.cache_frozen_features(opened.state.network, opened.corpus)
        if distributed.is_main:
            opened.listeners = _listeners(opened)
            opened.tell_best()
        try:
            yield opened
        finally:
            opened.listeners.close(finished=opened.noted == "finished")
        distributed.barrier()  # all leave together: who stays behind would wait for the others' sockets for ever
        opened.network = opened.state.network  # the wrapper must be gone before its process group is


def _listeners(opened: Session) -> Listener:
    """Those that the run asks for. Raises UserError if a package is missing, or a name cannot be."""
    run, folder, several = opened.run, opened.folder, list[Listener]()
    if run.tensorboard:
        several.append(Board(folder, settings(run), step=opened.state.step))
    if run.hub:
        several.append(Upload(folder, run.hub, opened.warn))
    if run.wandb:
        several.append(WandB(folder, run.wandb, opened.warn))
    return Listeners(several, opened.warn)


def _claim(folder: Path) -> None:
    """Make sure that the folder is, or can become, a run folder."""
    ours = ("lock", "journal.jsonl", "run.yaml")  # what a start that was killed at once has left, at most
    if (
        folder.is_dir()
        and not (folder / "run.yaml").exists()
        and any(not path.name.startswith(ours) for path in folder.iterdir())
    ):
        raise UserError(
            f"{folder} has files in it and no run.yaml, so it is not a run of seedfast; choose an empty or new folder "
            "for --out (if run.yaml was lost, each checkpoint has a copy)."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be made: {error.strerror}.") from error


def _build(
    run: Run,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    distributed: DistributedContext,
    initialise: Callable[[Any], None] | None,
) -> Session:
    """Everything but the past: a network whose weights are new, or to be overwritten by the checkpoint's."""
    data = data_of(run, checkpoint)
    corpus = data.load() if distributed.is_main else None
    distributed.barrier()  # the leading process has filled the cache from which the others now read
    corpus = corpus or data.load()
    family = run.objective.build(corpus.assets)
    if run.best_metric not in (known := ("loss", *family.objective.measure.metrics)):
        raise UserError(f"best_metric must be one of {', '.join(known)} for this family, not {run.best_metric}.")
    initialise = initialise or run.model.initialise
    with torch.random.fork_rng():
        keys.seed_torch(run.seed, "init")
        network = family.objective.network(run.model)
        if not checkpoint:
            initialise(network)
    network.to(distributed.device)
    state = TrainState(
        network=network,
        optimizer=run.optimizer.build(network),
        average=Average(network) if run.ema.half_life else None,
        scaler=torch.amp.GradScaler(distributed.device.type, enabled=run.precision == "fp16"),
        family={name: tensor.to(distributed.device) for name, tensor in family.initial_state().items()},
    )
    return Session(
        run=run,
        folder=checkpoints.run_folder,
        distributed=distributed,
        corpus=corpus,
        family=family,
        network=distributed.wrap(network),
        state=state,
        order=Order(size=len(corpus.train), seed=run.seed, sampling_weights=corpus.sampling_weights),
        checkpoints=checkpoints,
        journal=Journal(checkpoints.run_folder) if distributed.is_main else None,
    )


def data_of(run: Run, checkpoint: Checkpoint | None) -> DataConfig:
    """The run's data, with the pretrained parts (a tokenizer) that a checkpoint holds: the hub is not asked again."""
    if checkpoint is None:
        return run.data
    return run.data.from_checkpoint(checkpoint.assets, before=stored_run(run, checkpoint.folder).data)


def _resume(opened: Session, checkpoint: Checkpoint, allow_change: tuple[str, ...]) -> None:
    """Take up a checkpoint that has been verified."""
    opened.changed = _compare(opened, checkpoint, allow_change)
    try:
        opened.state.read(checkpoint)
    except ValueError as error:
        raise UserError(f"{checkpoint.folder} does not fit this run: {error}.") from error
    opened.committed_best = dict(opened.state.best)
    if opened.run.steps < checkpoint.step:
        raise UserError(
            f"This run is at step {checkpoint.step} already, so it cannot end at {opened.run.steps}; "
            f"say --steps {checkpoint.step} or more, or go back to an earlier checkpoint with --at."
        )
    checkpoint.release()
    if opened.journal is None:
        return
    opened.journal.rewind(checkpoint.step, checkpoint.manifest.journal)
    for moved in opened.checkpoints.quarantine_after(checkpoint.step):
        print(f"seedfast: the later checkpoint was set aside as {moved.name}", file=sys.stderr)
    opened.point()  # a kill may have come between the commit and the pointers
    opened.note("resumed", changes=opened.changed)
    commit(opened.folder / "run.yaml", to_yaml(opened.run))


def _start(opened: Session) -> None:
    """A new run: enough room on the disk, a first checkpoint as a rehearsal of the commit, an empty journal."""
    if opened.journal is None:
        return
    each, once = opened.state.size()
    free, needed = shutil.disk_usage(opened.folder).free, 2 * each + once
    if free < needed:
        raise UserError(
            f"{opened.folder} has {free / 1e9:.2f} GB free, and two checkpoints of this run need {needed / 1e9:.2f} GB."
        )
    if opened.journal.size or (opened.folder / "latest.json").exists():
        raise UserError(
            f"{opened.folder} has been trained in, but its checkpoints are gone; bring them back, or use another --out."
        )
    try:
        commit(opened.folder / "run.yaml", to_yaml(opened.run))
        opened.save()
    except OSError as error:
        raise UserError(f"The first checkpoint could not be saved, as a rehearsal: {error}.") from error
    opened.note("started", steps=opened.run.steps)


def _compare(opened: Session, checkpoint: Checkpoint, allow_change: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Hold the wanted run and its data against the stored ones; what changed and may change is returned."""
    stored = stored_run(opened.run, checkpoint.folder)
    found = changes(stored, opened.run)
    refuse_changes(opened.run, found, allow_change)
    before, now = checkpoint.fingerprint, opened.corpus.fingerprint
    if before.digest != now.digest and "data" not in allow_change:
        raise UserError(
            f"The data is not what {opened.folder} was trained on ({describe_difference(before, now)}); restore it, "
            "use another --out, or say --allow-change data to continue on the new data."
        )
    manifest = checkpoint.manifest
    for subject, then in (("topology", manifest.topology), ("versions", manifest.versions)):
        today = opened.facts[subject]
        found |= {f"{subject}.{key}": (then.get(key), value) for key, value in today.items() if then.get(key) != value}
    return found


def stored_run(template: Run, folder: Path) -> Run:
    """The run stored in `folder`, given any run of the same recipe. Raises UserError if it is another recipe's."""
    path = folder / "run.yaml"
    values = read_yaml(path)
    if values.get("recipe") != template.recipe:
        raise UserError(
            f"{folder} holds a run of the recipe {values.get('recipe')}, not of {template.recipe}; use another --out."
        )
    return from_mapping(template, values, where=str(path))
