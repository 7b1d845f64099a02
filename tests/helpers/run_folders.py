"""Run folders as training leaves them, without training."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seedfast import sealed_folder

STEPS = 8
SIZES = {"model.safetensors": 1_500_000, "state.json": 500_000}
"""Bytes of the files of a checkpoint."""


def step(number: int, loss: float | None = 3.0, **more: Any) -> dict[str, Any]:
    """A journal line of an optimizer step."""
    entry = {
        "step": number,
        "loss": loss,
        "gradient_norm": None if loss is None else 0.5,
        "lr": {"adamw": 1e-3},
        "weight": 100.0,
        "digest": "00",
    }
    return entry | more | {"time": {"seconds": 0.25}}


def score(loss: float, error: float = 0.02, **more: Any) -> dict[str, Any]:
    """A validation score."""
    return {"loss": loss, "standard_error": error, "weight": 64.0, "examples": 32, "draws": 4, "diagnostics": {}} | more


def validation(number: int, **scores: dict[str, Any]) -> dict[str, Any]:
    """A journal line of a validation, with a score for each kind of weights."""
    return {"step": number, "validation": scores}


def make(folder: Path, journal: Iterable[dict[str, Any]], *, steps: int = STEPS, recipe: str = "some-recipe") -> Path:
    """A run folder with this journal, before the first checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(f"recipe: {json.dumps(recipe)}\nsteps: {steps}\nclip: 1.0\n")
    (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in journal))
    return folder


def save(folder: Path, number: int, **manifest: Any) -> Path:
    """Commit a checkpoint of zeros with these further keys in its manifest, and the pointer to it."""
    checkpoint = folder / "checkpoints" / f"step-{number:08d}"
    with sealed_folder.committing(checkpoint) as attempt:
        for name, size in SIZES.items():
            (attempt.folder / name).write_bytes(bytes(size))
        attempt.entries.update(manifest, step=number)
    (folder / "latest.json").write_text(json.dumps({"step": number, "checkpoint": checkpoint.name}))
    return checkpoint
