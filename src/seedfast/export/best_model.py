"""The best model of a fine-tuning run as a folder in the run, for transformers or peft."""

import shutil
from pathlib import Path
from typing import Any

from seedfast import recipes, sealed_folder
from seedfast.console import warn
from seedfast.evaluate import trained
from seedfast.evaluate.trained import Trained
from seedfast.export.export import fits_its_base, writer
from seedfast.files import to_json
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder.choice import find
from seedfast.untrusted import read_json

_NAME, _RECORD = "model", "checkpoint.json"


def keep_best_model(run_folder: Path) -> Path | None:
    """Write the best model of a fine-tuning run to `model/` in its folder, as `save_pretrained` does; an adapter alone.

    Returns the folder, or None for a run of another kind. A complete new folder replaces that of an earlier best by
    renaming; one that is already this checkpoint's stays. A full disk is a warning: `seedfast export` writes it later.
    """
    checkpoint = find(run_folder)
    run = recipes.stored(checkpoint.folder, trust=True)  # the user has just trained it
    if not isinstance(run.model, PretrainedLM):
        return None
    model = trained.load(run, checkpoint, device="cpu")
    place, record = run_folder / _NAME, _record(model)
    if _stored(place) == record:
        return place
    write = writer(model, merge=not fits_its_base(model))
    assert write is not None, "a pretrained model can always be written"
    fresh, old = run_folder / f"{_NAME}.new", run_folder / f"{_NAME}.old"
    try:
        for left_over in (fresh, old):
            if left_over.is_dir():
                shutil.rmtree(left_over)
        with sealed_folder.new_folder(fresh) as attempt:
            write(attempt)
            (attempt / _RECORD).write_text(to_json(record), "utf-8")
        if place.exists():
            place.rename(old)
        fresh.rename(place)
    except OSError as error:
        warn(f"{place} could not be written ({error.strerror or error}); seedfast export writes the model.")
        return None
    shutil.rmtree(old, ignore_errors=True)
    return place


def _record(model: Trained) -> dict[str, Any]:
    checkpoint = model.committed
    return {"step": checkpoint.step, "weights": model.weights, "seal": checkpoint.manifest.seal}


def _stored(place: Path) -> Any:
    """The record of the folder; None without one that can be read, so that the model is written again."""
    try:
        return read_json(place / _RECORD)
    except (OSError, ValueError):
        return None
