"""Which checkpoint of a run is used: the best, the newest, or that of a step. One rule for every command."""

from pathlib import Path
from typing import Literal

from seedfast.errors import UserError
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.records import read_best
from seedfast.sealed_folder import MANIFEST

At = int | Literal["best", "newest"]
"""best: of the committed validations (the newest where nothing was validated). newest: the latest. A number: a step."""

Weights = Literal["ema", "raw", "base"]
"""ema: averaged; raw: current; base: the pretrained starting point."""


def find(folder: Path, *, at: At = "best", weights: Weights | None = None) -> Checkpoint:
    """A verified checkpoint of a run folder; a checkpoint's own folder is that checkpoint.

    weights: those to be used: averaged and raw weights have a best step each (default: the averaged ones).
    Raises UserError if there is none, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is a file: name the run folder." if folder.exists() else f"There is no folder {folder}."
        )
    return _readable(_itself(folder, at) if is_checkpoint(folder) else _chosen(folder, at, weights))


def _chosen(folder: Path, at: At, weights: Weights | None) -> Checkpoint:
    """The verified checkpoint of a run folder."""
    step = at if isinstance(at, int) else _best_step(folder, weights) if at == "best" else None
    checkpoint = Checkpoints(folder).newest(at=step)
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint; train a run there first.")
    return checkpoint


def _readable(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, once everything in it that is no tensor has been read.

    Its files are those of its manifest, but a stranger can have written the manifest too.
    """
    try:
        _ = checkpoint.manifest, checkpoint.state, checkpoint.fingerprint
    except (OSError, ValueError) as error:
        raise UserError(f"The checkpoint {checkpoint.folder} cannot be read: {error}.") from error
    return checkpoint


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint, and not a run folder."""
    return (folder / MANIFEST).is_file() and (folder / "run.yaml").is_file()


def run_folder_of(folder: Path) -> Path:
    """The run folder of a checkpoint, or the folder beside one that was copied elsewhere; another folder is itself."""
    if not is_checkpoint(folder):
        return folder
    above = folder.absolute().parent
    return above.parent if above.name == "checkpoints" else above


def is_best(checkpoint: Checkpoint, weights: Weights) -> bool:
    """Whether these weights have their best validation of the run at this step; of a checkpoint that was copied
    elsewhere, the best one until then."""
    try:
        records = read_best(run_folder_of(checkpoint.folder))
    except UserError:
        records = {}
    best = {kind: record["step"] for kind, record in records.items()}
    best = best or {kind: record.step for kind, record in checkpoint.best.items()}
    return best.get(weights) == checkpoint.step


def _itself(folder: Path, at: At) -> Checkpoint:
    """The verified checkpoint in a folder."""
    try:
        checkpoint = Checkpoint.of(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"The checkpoint {folder} is damaged ({error}); name another one, or its run.") from error
    if isinstance(at, int) and at != checkpoint.step:
        reason = f"{folder} is the checkpoint of step {checkpoint.step}, not {at}."
        raise UserError(reason, command="Leave --at out, or name its run folder.")
    if problems := checkpoint.open():
        raise UserError(f"The checkpoint {folder} is damaged: {'; '.join(problems)}; name another one, or its run.")
    return checkpoint


def _best_step(folder: Path, weights: Weights | None) -> int | None:
    """The step of the best committed validation by these weights; None before the first."""
    try:
        records = read_best(folder)
    except UserError as error:
        raise UserError(f"{error} So the best step is unknown.", command="Pass --at newest.") from error
    kind = weights if weights in records else "ema" if "ema" in records else "raw"
    return int(records[kind]["step"]) if kind in records else None
