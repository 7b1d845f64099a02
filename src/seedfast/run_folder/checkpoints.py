"""The checkpoints of a run folder, and its pointers to the latest and the best one."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seedfast import sealed_folder
from seedfast.console import warn
from seedfast.errors import UserError
from seedfast.files import FileDigest, commit, sync, to_json
from seedfast.run_folder.checkpoint import Checkpoint, best_steps, step_name
from seedfast.run_folder.links import refuse_links
from seedfast.run_folder.tidying import Tidying

_COMMITTED = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, *, keep: int = 2) -> None:
        """keep: number of the newest committed checkpoints that are retained, besides the best ones."""
        self.run_folder = run_folder
        self.folder = run_folder / "checkpoints"
        self.keep = keep
        self._tidying = Tidying()

    def committed(self) -> list[Checkpoint]:
        """Every committed checkpoint, oldest first. Raises UserError for a link that leads out of the run folder."""
        if not self.folder.is_dir():
            return []
        refuse_links(self.run_folder, self.folder.name)
        matches = ((path, _COMMITTED.fullmatch(path.name)) for path in self.folder.iterdir())
        return sorted((Checkpoint(path, int(m[1])) for path, m in matches if m), key=lambda c: c.step)

    def at(self, step: int) -> Checkpoint | None:
        """The committed checkpoint of a step, unverified."""
        folder = self.folder / step_name(step)
        return Checkpoint(folder, step) if folder.is_dir() else None

    def newest(self, *, at: int | None = None) -> Checkpoint | None:
        """Open the newest intact checkpoint, or the one at step `at`; None where nothing was ever committed.

        It is verified, and not removed while this process lives. A damaged one is named on stderr, and the next older
        one is taken. Raises UserError if none is intact.
        """
        committed = self.committed()
        candidates = [c for c in reversed(committed) if at is None or c.step == at]
        for candidate in candidates:
            problems = candidate.open()
            if problems is None:
                return self.newest(at=at)  # training has removed it a moment ago
            if not problems:
                return candidate
            found = f"checkpoint {candidate.folder.name} is damaged: {'; '.join(problems)}"
            if at is not None:
                raise self._with_others(f"The {found}", committed, at)
            warn(found)
        if at is not None:
            raise self._with_others(f"{self.folder} has no checkpoint at step {at}", committed, at)
        if candidates:
            raise UserError(
                f"None of the {len(candidates)} checkpoints in {self.folder} is intact; restore one from a backup, "
                "or train in another folder. Nothing has been changed."
            )
        return None

    def _with_others(self, reason: str, committed: Sequence[Checkpoint], at: int) -> UserError:
        """Why a checkpoint of a step is not to be had, which others are intact, and why some are not."""
        problems = {each.step: each.problems() for each in committed if each.step != at}
        intact = [str(step) for step, found in problems.items() if not found]
        damaged = [f"that of step {step} is damaged ({'; '.join(found)})" for step, found in problems.items() if found]
        found = [f"intact are those of the steps {', '.join(intact)}"] if intact else []
        others = ", and ".join([*found, *damaged]) or "there is no other"
        command = "Name an intact one with --at." if intact else None
        return UserError(f"{reason}; {others}.", command=command)

    def save(
        self, step: int, write: Callable[[Path], Mapping[str, FileDigest] | None], facts: Mapping[str, Any]
    ) -> None:
        """Commit a checkpoint, unless this step is committed already.

        write: fills the folder that it receives; returns the digests of the shared files, which lie beside the
            checkpoints, by name. facts: further keys of the manifest.
        Raises OSError (disk full, I/O) with nothing committed and nothing left behind.
        """
        folder = self.folder / step_name(step)
        if folder.exists():
            return  # a validation and the saving interval can fall on the same step
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidying.sweep(self.folder)
        with sealed_folder.committing(folder) as attempt:
            attempt.outside.update(write(attempt.folder) or {})
            attempt.entries.update(facts, step=step)

    def update_pointers(self, step: int, best: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `latest.json` and `best.json` for the state at `step`, and remove the checkpoints not retained.

        best: the best validation by kind of weights. Retained are the newest `keep`, the best ones of this state and of
        each retained one (as a run may be resumed from it), and those that another process has open. One that cannot be
        removed is named once on stderr and stays. Idempotent. Raises OSError if a pointer cannot be written.
        """
        commit(self.run_folder / "latest.json", to_json({"step": step, "checkpoint": step_name(step)}))
        commit(self.run_folder / "best.json", to_json(best))
        committed = self.committed()
        retained = {record["step"] for record in best.values()}
        for checkpoint in committed[-self.keep :]:
            retained |= best_steps(checkpoint)
        for old in committed[: -self.keep]:
            if old.step not in retained and not old.is_in_use():
                self._tidying.discard(old.folder)
        self._tidying.sweep(self.folder)

    def quarantine_after(self, step: int) -> list[Path]:
        """Rename the checkpoints later than `step` (damaged ones, or those that a rewind abandons) to `*.aside-N`.

        Renamed checkpoints are neither read nor removed any more. Returns their new paths.
        """
        moved = []
        for later in reversed(self.committed()):  # the newest first, so that a kill leaves no gap below the newest
            if later.step > step:
                earlier = self.folder.glob(f"{later.folder.name}.aside-*")
                numbers = (path.suffix.removeprefix(".aside-") for path in earlier)
                number = max((int(number) for number in numbers if number.isdigit()), default=0) + 1
                moved.append(later.folder.rename(later.folder.with_name(f"{later.folder.name}.aside-{number}")))
        if moved:
            sync(self.folder)
        return moved
