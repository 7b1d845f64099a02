"""The Python front door: `seedfast.recipe`, `seedfast.train`, `seedfast.load`, `seedfast.journal`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.evaluate.bare import bare, bare_request, is_bare
from seedfast.evaluate.trained import Trained, Weights
from seedfast.export.best_model import keep_best_model
from seedfast.loop.config import Run, from_mapping
from seedfast.loop.given_data import write_given
from seedfast.loop.open import open_session
from seedfast.loop.progress import Callback, Line, Silent
from seedfast.loop.train import run_training
from seedfast.run_folder.journal import Entry
from seedfast.run_folder.table import Table, read_table

Device = Literal["auto", "cpu", "cuda"]


def recipe(name: str, /, **changes: Any) -> Run:
    """The run of a recipe, with some of its fields changed: `recipe("text-masked", steps=100, **{"model.width": 64})`.

    name: of `seedfast recipes`, or `path/to/file.py:function` for a recipe of your own. changes: values by the dotted
    names that the flags have, with underscores; a dict changes several fields of a group, `model={"width": 64}`.
    Raises UserError for an unknown recipe or field, or a value that does not fit it, naming the key.
    """
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        *groups, last = key.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UserError(f"{key} is a field of {group}, which is given as a whole too: give one of them.")
        inner[last] = str(value) if isinstance(value, Path) else value
    return from_mapping(recipes.make(name), nested, where=f"recipe {name}").located()


def train(
    run: Run,
    out: str | Path,
    *,
    data: Sequence[Any] | None = None,
    progress: Callable[[Entry], None] | None = None,
    allow_change: Sequence[str] = (),
    step: int | None = None,
) -> Trained:
    """Train a run in the folder `out` and return the trained model; on a folder with a checkpoint, continue it.

    data: the data themselves instead of `run.data.path`: a list of texts, of rows (mappings, such as chats), of images
        (PIL images or uint8 arrays [H, W] or [H, W, C]) or of (image, label) pairs. They are kept in the run folder.
    progress: called with each entry of the journal (`step`, `loss`, … or `validation`). None prints a line.
    allow_change: fields that may differ from those of the run in the folder although that changes its meaning.
    step: continue from the checkpoint of this step; later checkpoints are moved away.
    Raises UserError for data that cannot be used or a folder of another run; TrainingStopped where the loss is not
    finite. Ctrl-C raises KeyboardInterrupt after a checkpoint is saved: the same call continues.
    """
    folder = Path(out)
    if data is not None:
        run = replace(run, data=run.data.with_path(str(write_given(data, folder / "data"))))
    with open_session(run.located(), folder, allow_change=tuple(allow_change), at=step) as session:
        if progress:
            outcome = run_training(session, Callback(progress))
        else:
            with Line(Console(stderr=True, markup=False, emoji=False, highlight=False)) as line:
                outcome = run_training(session, line if session.distributed.is_main else Silent())
        is_main = session.distributed.is_main
    if outcome.interrupted_by is not None:
        raise KeyboardInterrupt
    if is_main:
        keep_best_model(folder)
    return load(folder)


def load(
    folder: str | Path,
    *,
    step: int | None = None,
    weights: Weights | None = None,
    device: Device = "auto",
    data: str | Path | None = None,
) -> Trained:
    """The trained model of a run folder, or a model's own folder as transformers or `seedfast export` writes it.

    step: of the checkpoint (default: the newest). weights: "ema" (averaged, the default where there are some), "raw"
    or "base" (the pretrained starting point). data: where the data is now, if it has moved; for a model's own folder,
    what to evaluate it on.
    Raises UserError if the folder holds no model, or no such step or weights.
    """
    place = Path(folder)
    if is_bare(place):
        if (step, weights) != (None, None):
            raise UserError(f"{place} is a bare model, whose only weights are its own: give no step or weights.")
        return bare(place, device=device, data=None if data is None else str(data))
    checkpoint = trained.find(place, at=step)
    run = recipes.stored(checkpoint.folder)
    if data is not None:
        run = replace(run, data=run.data.with_path(str(data)))
    return trained.load(run, checkpoint, weights=weights, device=device)


def request_class(folder: Path) -> type[Any]:
    """The class of the requests that the model in a folder takes: its fields are the options of `sample`.

    Nothing of the network is read. Raises UserError if the folder holds no model.
    """
    if is_bare(folder):
        return bare_request(folder)
    checkpoint = trained.find(folder)
    run = recipes.stored(checkpoint.folder)
    generator = run.objective.build(run.data.restore(checkpoint.assets)).generator
    if generator is None:
        raise UserError(f"A model of {run.recipe} cannot be sampled from: its family has no generator.")
    kind: type[Any] = generator.Request
    return kind


def journal(folder: str | Path) -> Table:
    """The journal of a run as a table: a mapping from the names of its curves to columns (NumPy arrays).

    One row for each journal line; `table["training/loss"]` has NaN where a line has no such number. `pandas.DataFrame(
    dict(table))` takes it as it is. Raises UserError if the folder holds no run, or its journal is damaged.
    """
    return read_table(Path(folder))
