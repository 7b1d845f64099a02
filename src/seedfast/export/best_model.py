"""The best model of a fine-tuning run as a folder in the run, for transformers or peft."""

import shutil
from pathlib import Path

from seedfast import recipes, sealed_folder
from seedfast.console import warn
from seedfast.evaluate import trained
from seedfast.evaluate.origin import Origin
from seedfast.export.export import fits_its_base, writer
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder.choice import find

_NAME = "model"


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
    place, origin = run_folder / _NAME, model.came_from
    assert origin is not None, "it is a run's"
    if (stored := Origin.read(place)) and stored.as_json() == origin.as_json():
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
            origin.write(attempt)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
    except OSError as error:
        warn(f"{place} could not be written ({error.strerror or error}); seedfast export writes the model.")
        return None
    shutil.rmtree(old, ignore_errors=True)
    return place
