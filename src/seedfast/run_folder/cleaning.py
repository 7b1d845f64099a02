"""What a run folder can lose and still be continued, evaluated and sampled with the same results."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seedfast import sealed_folder
from seedfast.errors import UserError
from seedfast.files import UNFINISHED, tree_size
from seedfast.run_folder.checkpoint import Checkpoint, best_steps
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.links import refuse_links
from seedfast.run_folder.lock import locked


@dataclass(frozen=True)
class Unneeded:
    """A folder that a run does not need. size: its bytes. reason: why, as a noun."""

    path: Path
    size: int
    reason: str


def unneeded(run_folder: Path) -> list[Unneeded]:
    """The checkpoints before the newest intact one that are not best ones, and what was set aside or left behind.

    Raises UserError where no checkpoint is intact, since then nothing is known to be unneeded.
    """
    refuse_links(run_folder)
    return [Unneeded(path, tree_size(path), reason) for path, reason in _unneeded(Checkpoints(run_folder))]


def _unneeded(checkpoints: Checkpoints) -> Iterator[tuple[Path, str]]:
    committed = checkpoints.committed()
    newest = next((each for each in reversed(committed) if not each.problems()), None)
    if newest is None:
        if committed:
            raise UserError(f"None of the checkpoints in {checkpoints.folder} is intact: nothing is removed.")
        return
    needed = {newest.step} | best_steps(newest)
    for each in committed:
        if each.step < newest.step and each.step not in needed:
            yield each.folder, "a checkpoint that is neither the newest nor a best one"
    for path in sorted(checkpoints.folder.glob("step-*.aside-*")):
        yield path, "a checkpoint that was set aside"
    if (left := checkpoints.folder / UNFINISHED).is_dir() and any(left.iterdir()):
        yield left, "what a killed process left"


def remove(run_folder: Path, found: list[Unneeded]) -> list[Unneeded]:
    """Remove these folders of a run; returns those that stay, since another process uses them.

    Raises UserError if a process is training in the run, and OSError for what cannot be removed.
    """
    with locked(run_folder):
        stay = []
        for each in found:
            if each.path.name == UNFINISHED:
                if failed := sealed_folder.sweep(each.path.parent):
                    raise failed[0]
                if each.path.exists():  # a living process writes there
                    stay.append(each)
            elif Checkpoint(each.path, 0).is_in_use():
                stay.append(each)
            else:
                sealed_folder.discard(each.path)
        return stay
