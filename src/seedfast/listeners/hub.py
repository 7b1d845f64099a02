"""Upload of each new best checkpoint to the Hugging Face hub, by `seedfast push` in a background process."""

from pathlib import Path
from typing import Any

from seedfast import huggingface
from seedfast.console import say
from seedfast.files import commit, to_json
from seedfast.listeners.background import BackgroundProcess
from seedfast.listeners.base import Listener, Warn
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.journal import Entry
from seedfast.untrusted import read_json

PATIENCE = 300.0
"""Seconds that a finished run waits for its last upload."""


class HubListener(Listener):
    """One upload at a time, always of the checkpoint that is the best when it starts; others are skipped.

    `hub.json` in the run folder names the step that was uploaded, so the next session uploads what this one could not.
    """

    def __init__(self, run_folder: Path, repository: str, warn: Warn) -> None:
        """Raises UserError if it is no name of a repository, or the package of the hub is missing."""
        huggingface.check_repository(repository)
        self._folder, self._repository, self._warn = run_folder, repository, warn
        self._record_file = run_folder / "hub.json"
        self._uploaded: int | None = self._recorded()
        self._best = self._started = self._uploaded
        self._process: BackgroundProcess | None = None

    def on_best(self, step: int) -> None:
        """Upload the checkpoint as soon as no other upload is running."""
        self._best = step
        self._update()

    def on_entry(self, entry: Entry) -> None:
        """Check on the upload."""
        self._update()

    def close(self, *, finished: bool) -> None:
        """Wait for the upload of the best checkpoint; after an interruption the next session uploads it."""
        if finished and self._best != self._uploaded:
            say(f"Uploading the best checkpoint to {self._repository} (Ctrl-C skips it) …")
            if self._started != self._best:
                self._finish(PATIENCE)
            if self._process is None:
                self._start()
            self._finish(PATIENCE)
        elif self._process:
            self._process.end(0)

    def _update(self) -> None:
        if self._process and not self._process.is_running:
            self._finish(0)
        if self._process is None and self._best != self._started:
            self._start()

    def _start(self) -> None:
        """Start the upload of the best checkpoint."""
        self._started = self._best
        self._process = BackgroundProcess("seedfast", "push", str(self._folder), self._repository, "--private")

    def _finish(self, seconds: float) -> None:
        """Wait up to `seconds` for the upload, and record its success or warn."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if failure := process.end(seconds):
            command = f"seedfast push {self._folder} {self._repository}"
            self._warn(f"the checkpoint of step {self._started} was not uploaded ({failure}); by hand: {command}")
            return
        self._uploaded = self._started
        commit(self._record_file, to_json(self._record(self._uploaded)))

    def _recorded(self) -> int | None:
        """The step of the checkpoint that is recorded as uploaded; None if it is another one now, or not recorded."""
        try:
            stored = read_json(self._record_file)
            step = stored["step"] if isinstance(stored, dict) else None
        except (OSError, ValueError, KeyError):
            return None
        return step if isinstance(step, int) and stored == self._record(step) else None

    def _record(self, step: int | None) -> dict[str, Any]:
        """The contents of `hub.json` after the upload of this step; the seal identifies the checkpoint."""
        checkpoint = Checkpoints(self._folder).at(step or 0)
        return {"name": self._repository, "step": step, "seal": checkpoint.manifest.seal if checkpoint else None}
