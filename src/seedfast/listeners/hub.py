"""Each new best checkpoint, uploaded to the Hugging Face hub by a process beside the training: `seedfast push`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedfast import huggingface
from seedfast.console import say
from seedfast.files import commit, to_json
from seedfast.listeners.background import Aside
from seedfast.listeners.base import Listener, Warn
from seedfast.sealed_folder import MANIFEST

PATIENCE = 300.0
"""Seconds that a finished run waits for its last upload."""


class Upload(Listener):
    """One upload at a time, always of what is the best when it begins; those that came meanwhile are passed over.

    `hub.json` of the run folder says which step has arrived, so what a session could not upload the next one does.
    """

    def __init__(self, run_folder: Path, name: str, warn: Warn) -> None:
        """name: of the repository. Raises UserError if it cannot be one, or the hub's package is missing."""
        huggingface.check_repository(name)
        self._folder, self._name, self._warn = run_folder, name, warn
        self._note = run_folder / "hub.json"
        known = json.loads(self._note.read_text()) if self._note.is_file() else {"step": None}
        self._arrived: int | None = known["step"] if known == self._known(known["step"]) else None
        self._best = self._begun = self._arrived
        self._process: Aside | None = None

    def best(self, step: int) -> None:
        """Upload it as soon as no other upload is under way."""
        self._best = step
        self._look()

    def line(self, entry: Mapping[str, Any]) -> None:
        """See how the upload is getting on."""
        self._look()

    def close(self, *, finished: bool) -> None:
        """Wait for the upload of the best; an interrupted run leaves it to its next session."""
        if finished and self._best != self._arrived:
            say(f"Uploading the best checkpoint to {self._name} (Ctrl-C leaves it) …")
            if self._begun != self._best:
                self._settle(PATIENCE)
            if self._process is None:
                self._begin()
            self._settle(PATIENCE)
        elif self._process:
            self._process.end(0)

    def _look(self) -> None:
        if self._process and not self._process.is_running:
            self._settle(0)
        if self._process is None and self._best != self._begun:
            self._begin()

    def _begin(self) -> None:
        """Start uploading what is the best now."""
        self._begun = self._best
        self._process = Aside("seedfast", "push", str(self._folder), self._name, "--private")

    def _settle(self, seconds: float) -> None:
        """Take note of how the upload has ended."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if fault := process.end(seconds):
            by_hand = f"seedfast push {self._folder} {self._name}"
            self._warn(f"the checkpoint of step {self._begun} was not uploaded ({fault}); by hand: {by_hand}")
            return
        self._arrived = self._begun
        commit(self._note, to_json(self._known(self._arrived)))

    def _known(self, step: int | None) -> dict[str, Any]:
        """What `hub.json` says when this step has arrived: another checkpoint of the same step is another model."""
        manifest = self._folder / "checkpoints" / f"step-{step or 0:08d}" / MANIFEST
        seal = json.loads(manifest.read_text())["seal"] if manifest.is_file() else None
        return {"name": self._name, "step": step, "seal": seal}
