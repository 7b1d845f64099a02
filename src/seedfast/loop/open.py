"""Opening a session: a new run, or the continuation of the run in a folder."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedfast import user_code
from seedfast.console import say, warn
from seedfast.data.dataset import describe_difference
from seedfast.errors import UserError
from seedfast.files import UNFINISHED, commit
from seedfast.huggingface import check_repository
from seedfast.listeners.base import Listener, Listeners, require
from seedfast.listeners.hub import HubListener
from seedfast.listeners.tensorboard import TensorBoardListener
from seedfast.listeners.trackio import TrackioListener
from seedfast.listeners.wandb import WandbListener
from seedfast.loop import advice
from seedfast.loop.agreement import check_same_run, one_sentence
from seedfast.loop.build import build
from seedfast.loop.config import AUTO, Run, changes, refuse_changes, settings
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.left_out import refuse_other_past
from seedfast.loop.placement.choose import choose
from seedfast.loop.sample import showcase_request
from seedfast.loop.session import Session, stored_run
from seedfast.loop.trial import resolved
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import is_checkpoint
from seedfast.run_folder.lock import locked


@contextmanager
def open_session(
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
    initialise: gives a new run's network its weights (imported ones), after the keyed initialisation; by default the
        model configuration does (it reads pretrained ones).
    Raises UserError for a folder that is not a run's or is in use, another run's or changed data, damaged checkpoints.
    """
    sharded = run.placement in ("fsdp", "hsdp")
    distributed = DistributedContext.join(run.device, run.precision, run.rank_timeout, group=sharded)
    with ExitStack() as stack:
        stack.callback(distributed.finish)
        stack.enter_context(one_sentence(distributed))
        stack.enter_context(distributed.stopping())
        check_same_run(run, distributed)
        _check_listeners(run)
        _check_shares(run, distributed.world_size)
        placement = choose(run.placement, run.shard_degree, distributed)
        if run.async_save and placement.is_sharded:
            raise UserError(
                f"async_save copies whole tensors in one process, and placement {run.placement} leaves each process a "
                "part of them: leave one of the two out."
            )
        if distributed.is_main:
            made = claim(folder)
            stack.enter_context(locked(folder))
            stack.enter_context(_removing(folder, made))
        distributed.barrier()
        checkpoints = Checkpoints(folder, keep=run.keep)
        checkpoint = distributed.broadcast(checkpoints.newest(at=at) if distributed.is_main else None)
        run = run.located()
        if checkpoint is None:
            run = replace(run, data=distributed.broadcast(run.data.started() if distributed.is_main else run.data))
        adapts = run.micro_batch == AUTO
        run = resolved(run, folder, checkpoint, placement, initialise)
        session = build(run, checkpoints, checkpoint, placement, initialise)
        session.adapts_micro_batch = adapts
        if session.run.sampling.given and session.family.generator:
            showcase_request(session)  # refuses options that do not fit the family, before the first step
        cautions = list(advice.cautions(session.run, session.plan, len(session.corpus.validation)))
        if session.journal:
            stack.enter_context(session.journal)
        if checkpoint:
            _resume(session, checkpoint, allow_change)
        else:
            with placement.saving(session.state):
                _start(session)
        session.corpus = session.family.objective.cache_frozen_features(session.state.network, session.corpus)
        for caution in cautions:
            warn(caution)
        if distributed.is_main:
            _remember(folder)
            session.listeners = _listeners(session)
            session.announce_best()
        try:
            with distributed.stopping():
                yield session
        finally:
            session.listeners.close(finished=session.last_event == "finished")
        distributed.barrier()  # a rank that exits early would leave the others blocked
        session.network = session.state.network  # the wrapper must be gone before its process group is


def _check_shares(run: Run, processes: int) -> None:
    """Raise UserError if the processes cannot have equal parts of the batch."""
    each, rest = divmod(run.batch_size, processes)
    if rest:
        raise UserError(f"batch_size {run.batch_size} cannot be shared evenly by {processes} processes.")
    if run.exact_sums and each % run.exact_chunk:
        raise UserError(
            f"exact_chunk {run.exact_chunk} does not divide the {each} examples of each of {processes} processes: "
            "start fewer, or choose an exact_chunk that does before the run begins."
        )


def _remember(folder: Path) -> None:
    """Let the user's own code run from this folder from now on, without `--trust`."""
    try:
        user_code.remember(folder)
    except OSError as error:
        warn(
            f"{error.filename} cannot be written ({error.strerror}), so later commands on {folder} need --trust to run "
            "your code"
        )


def _check_listeners(run: Run) -> None:
    """Raise UserError for a missing package or an impossible name, before the run has a folder."""
    for package in ("tensorboard", "wandb", "trackio"):
        if getattr(run, package):
            require(package)
    if run.hub:
        check_repository(run.hub)


def _listeners(session: Session) -> Listener:
    """The listeners that the run names."""
    run, folder, listeners = session.run, session.folder, list[Listener]()
    if run.tensorboard:
        listeners.append(TensorBoardListener(folder, settings(run), step=session.state.step))
    if run.hub:
        listeners.append(HubListener(folder, run.hub, session.warn))
    if run.wandb:
        listeners.append(WandbListener(folder, run.wandb, session.warn))
    if run.trackio:
        listeners.append(TrackioListener(folder, run.trackio, session.warn))
    return Listeners(listeners, session.warn)


@contextmanager
def _removing(folder: Path, made: list[Path]) -> Iterator[None]:
    """Remove the folders that were made for a run if it is refused before its first checkpoint."""
    try:
        yield
    except BaseException:
        if made and not (folder / "run.yaml").exists():
            for name in ("lock", "journal.jsonl"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # a folder that has got other files stays
                for place in made:
                    place.rmdir()
        raise


def claim(folder: Path) -> list[Path]:
    """Make sure that the folder is, or can become, a run folder; returns the folders that were made, innermost first.

    Raises UserError if it is neither.
    """
    if is_checkpoint(folder):
        raise UserError(
            f"{folder} is a checkpoint, which is never changed: to continue from it, name its run folder with --out "
            "and its step with --at."
        )
    ours = (
        "lock",
        "journal.jsonl",
        "run.yaml",
        "data",
        "budget.json",
        UNFINISHED,
    )  # what a start that was killed at once can have left
    if (
        folder.is_dir()
        and not (folder / "run.yaml").exists()
        and any(path.name.partition(".tmp-")[0] not in ours for path in folder.iterdir())
    ):
        raise UserError(
            f"{folder} has files in it and no run.yaml, so it is not a run of seedfast; choose an empty or new folder "
            "for --out (if run.yaml was lost, each checkpoint has a copy)."
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The run folder {folder} cannot be made: {error.strerror}.") from error
    return made


def _resume(session: Session, checkpoint: Checkpoint, allow_change: tuple[str, ...]) -> None:
    """Continue from a checkpoint that has been verified."""
    session.changed = _compare(session, checkpoint, allow_change)
    try:
        session.state.read(checkpoint)
    except ValueError as error:
        raise UserError(f"{checkpoint.folder} does not fit this run: {error}.") from error
    session.committed_best, session.committed_step = dict(session.state.best), checkpoint.step
    if session.run.steps < checkpoint.step:
        raise UserError(
            f"This run is at step {checkpoint.step} already, so it cannot end at {session.run.steps}; "
            f"pass --steps {checkpoint.step} or more, or go back to an earlier checkpoint with --at."
        )
    checkpoint.release()
    if jump := advice.rate_jump(stored_run(session.run, checkpoint.folder), session.run, session.plan, checkpoint.step):
        warn(jump)
    if session.journal is None:
        return
    manifest, edited = checkpoint.manifest, "journal" in allow_change
    session.journal.rewind(checkpoint.step, manifest.journal, manifest.journal_sha256, edited=edited)
    for moved in session.checkpoints.quarantine_after(checkpoint.step):
        say(f"seedfast: the later checkpoint was moved to {moved.name}")
    # A kill may have come between the commit and the pointers.
    session.update_pointers(checkpoint.step, session.state.best)
    session.note("resumed", changes=session.changed)
    commit(session.folder / "run.yaml", session.run_yaml)


def _start(session: Session) -> None:
    """A new run: enough room on the disk, a first checkpoint as a rehearsal of the commit, an empty journal."""
    if session.journal is None:
        return
    each, once = session.state.size()
    free, needed = shutil.disk_usage(session.folder).free, 2 * each + once
    if free < needed:
        raise UserError(
            f"{session.folder} has {free / 1e9:.2f} GB free, and two checkpoints of this run need {needed / 1e9:.2f} "
            "GB."
        )
    if session.journal.size or (session.folder / "latest.json").exists():
        raise UserError(
            f"{session.folder} has been trained in, but its checkpoints are gone; restore them, or use another --out."
        )
    try:
        commit(session.folder / "run.yaml", session.run_yaml)
        session.save()
    except OSError as error:
        raise UserError(f"The first checkpoint could not be saved, as a rehearsal: {error}.") from error
    session.note("started", steps=session.run.steps)


def _compare(session: Session, checkpoint: Checkpoint, allow_change: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Compare the run and its data with the stored ones; returns the changes that are allowed."""
    stored = stored_run(session.run, checkpoint.folder)
    found = changes(stored, session.run)
    refuse_changes(session.run, found, allow_change)
    if not {"skip", "without"}.intersection(allow_change):
        refuse_other_past(stored, session.run, session.order, checkpoint.step)
    before, now = checkpoint.fingerprint, session.corpus.fingerprint
    if before.digest != now.digest and "data" not in allow_change:
        raise UserError(
            f"The data is not what {session.folder} was trained on ({describe_difference(before, now)}); restore it, "
            "use another --out, or pass --allow-change data to continue on the new data."
        )
    manifest = checkpoint.manifest
    topology = {"compiled": "off", **manifest.topology}  # version 0.1 compiled nothing
    for subject, then in (("topology", topology), ("versions", manifest.versions)):
        today = session.provenance[subject]
        found |= {f"{subject}.{key}": (then.get(key), value) for key, value in today.items() if then.get(key) != value}
    return found
