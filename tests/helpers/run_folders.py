"""Run folders as training leaves them, without training."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STEPS = 8


def step(number: int, loss: float | None = 3.0, **more: Any) -> dict[str, Any]:
    """A journal line of an optimizer step."""
    entry = {
        "step": number,
        "loss": loss,
        "gradient_norm": None if loss is None else 0.5,
        "lr": 1e-3,
        "weight": 100.0,
        "digest": "00",
    }
    return entry | more | {"time": {"seconds": 0.25}}


def score(loss: float, error: float = 0.02, **more: Any) -> dict[str, Any]:
    """A validation score."""
    return {"loss": loss, "standard_error": error, "weight": 64.0, "examples": 32, "draws": 4, "diagnostics": {}} | more


def validation(number: int, **scores: dict[str, Any]) -> dict[str, Any]:
    """A journal line of a validation."""
    return {"step": number, "validation": scores}


def make(folder: Path, journal: Iterable[dict[str, Any]], *, steps: int = STEPS, recipe: str = "some-recipe") -> Path:
    """A run folder with this journal, and nothing that a run only has later."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(f"recipe: {json.dumps(recipe)}\nsteps: {steps}\nclip: 1.0\n")
    (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in journal))
    return folder


def save(folder: Path, number: int, **facts: Any) -> Path:
    """A committed checkpoint, and the pointer to it."""
    checkpoint = folder / "checkpoints" / f"step-{number:08d}"
    checkpoint.mkdir(parents=True)
    files = {"model.safetensors": {"size": 1_500_000, "sha256": "ab"}, "state.json": {"size": 500_000, "sha256": "cd"}}
    (checkpoint / "manifest.json").write_text(json.dumps({"step": number, "files": files, **facts}))
    (folder / "latest.json").write_text(json.dumps({"step": number, "checkpoint": checkpoint.name}))
    return checkpoint
