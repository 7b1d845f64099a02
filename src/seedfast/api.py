"""The Python front door: `seedfast.recipe`, `seedfast.train`, `seedfast.load`, `seedfast.journal`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seedfast import recipes
from seedfast.console import say, terminal
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.evaluate.bare import bare, bare_request, is_bare
from seedfast.evaluate.trained import Trained
from seedfast.export.best_model import keep_best_model
from seedfast.loop import advice
from seedfast.loop.config import Run
from seedfast.loop.given_data import Given, given_path
from seedfast.loop.open import claim, open_session
from seedfast.loop.plain_config import from_mapping
from seedfast.loop.progress import LOG, Callback, Line, Silent
from seedfast.loop.train import run_training
from seedfast.models.config import Size
from seedfast.run_folder.choice import At, Weights, find, run_folder_of
from seedfast.run_folder.journal import Entry
from seedfast.run_folder.table import Table, read_table
from seedfast.user_code import named_by, named_by_user
from seedfast.verify.diff import Difference
from seedfast.verify.diff import diff as difference
from seedfast.verify.past import Past, opened
from seedfast.verify.replay import Comparison
from seedfast.verify.replay import replay as recompute

if TYPE_CHECKING:
    from seedfast.evaluate.comparison import ComparedRuns

Device = Literal["auto", "cpu", "cuda"]


def recipe(name: str, /, *, size: Size | None = None, **changes: Any) -> Run:
    """The run of a recipe, with some of its fields changed: `recipe("text-masked", steps=100, **{"model.width": 64})`.

    name: of `seedfast recipes`, or `path/to/file.py:function` for a recipe of your own. size: a named size of the
    network. changes: values by the dotted names that the flags have, with underscores, which override the size; a dict
    changes several fields of a group, `model={"width": 64}`.
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
    run = recipes.make(name)
    if size is not None:
        run = replace(run, model=run.model.sized(size))
    return from_mapping(run, nested, where=f"recipe {name}").located()


def train(
    run: Run,
    out: str | Path,
    *,
    data: Iterable[Any] | None = None,
    progress: Callable[[Entry], None] | None = None,
    allow_change: Sequence[str] = (),
    step: int | None = None,
    trust: bool = False,
) -> Trained:
    """Train a run in the folder `out` and return its best model; on a folder with a checkpoint, continue it.

    data: the data themselves instead of `run.data.path`: a list of texts, of rows (mappings, such as chats), of images
        (PIL images or uint8 arrays [H, W] or [H, W, C]) or of (image, label) pairs, whose label is a text or integer.
        They are kept in the run folder, so that the run is continued without them.
    progress: called with each entry of the journal (`step`, `loss`, … or `validation`). None prints a line.
    allow_change: fields that may differ from those of the run in the folder although that changes its meaning.
    step: continue from the checkpoint of this step; later checkpoints are moved away.
    trust: run the Python files that only a mixture of the data names.
    Raises UserError for data that cannot be used or a folder of another run; TrainingStopped where the loss is not
    finite. Ctrl-C raises KeyboardInterrupt after a checkpoint is saved: the same call continues.
    """
    folder = Path(out)
    if not isinstance(run, Run):
        raise UserError(f"run is {run!r:.40}, and no run: make one with seedfast.recipe.")
    if data is not None:
        values = Given.of(data)
        claim(folder)
        run = replace(run, data=run.data.with_path(str(values.write(folder))))
    elif (given := given_path(folder)) and run.data.path == recipes.make(run.recipe).data.path:
        run = replace(run, data=run.data.with_path(str(given)))  # the data that were given when the run began
    consent = named_by(folder, trust=True) if trust else nullcontext()
    with consent, open_session(run.located(), folder, allow_change=tuple(allow_change), at=step) as session:
        if progress:
            outcome = run_training(session, Callback(progress))
        else:
            with Line(terminal(), folder / LOG) as line:
                outcome = run_training(session, line if session.distributed.is_main else Silent())
        is_main = session.distributed.is_main
        if is_main and outcome.interrupted_by is None:
            for sentence in advice.conclusion(session):
                say(sentence)
    if outcome.interrupted_by is not None:
        raise KeyboardInterrupt
    if is_main:
        keep_best_model(folder)
    return load(folder, trust=True)  # it is the caller's own run


def load(
    folder: str | Path,
    *,
    step: At | None = None,
    weights: Weights | None = None,
    device: Device = "auto",
    data: str | Path | None = None,
    trust: bool = False,
) -> Trained:
    """The trained model of a run folder, or a model's own folder as transformers or `seedfast export` writes it.

    folder: of a run, of one of its checkpoints, or of a model.
    step: "best" (the default: by the run's validations of these weights; the newest where nothing was validated),
        "newest", or the step of a checkpoint.
    weights: "ema" (averaged, the default where there are some), "raw" or "base" (the pretrained starting point).
    data: where the data is now, if it has moved; for a model's own folder, what to evaluate it on.
    trust: run the Python files that the folder names (an own recipe, an own data source), which can do everything that
        you can; what you have trained yourself in this folder needs no trust.
    Raises UserError if the folder holds no model, no such step or weights, or needs a Python file without trust.
    """
    place = Path(folder)
    if is_bare(place):
        if step not in (None, "best") or weights is not None:
            raise UserError(f"{place} is a bare model, whose only weights are its own: give no step or weights.")
        return bare(place, device=device, data=None if data is None else str(data))
    checkpoint = find(place, at="best" if step is None else step, weights=weights)
    run = recipes.stored(checkpoint.folder, trust=trust)
    if data is not None:
        named_by_user(str(data))
        run = replace(run, data=run.data.with_path(str(data)))
    return replace(trained.load(run, checkpoint, weights=weights, device=device), trust=trust)


def compare(
    *folders: str | Path,
    judge: str | Path | None = None,
    step: Literal["best", "newest"] | None = None,
    weights: Weights | None = None,
    device: Device = "auto",
    trust: bool = False,
    **options: Any,
) -> "ComparedRuns":
    """Runs on the same validation bytes in one table: `.rows`, `.record()`.

    judge: the run folder of an autoregressive model that scores samples, for the frontier of each run. options: of
    `seedfast compare`: only, draws, windows, samples, temperatures. step, weights, device, trust: as in `load`.
    Raises UserError for runs with different validation data, naming how it differs.
    """
    from seedfast.evaluate.comparison import compare as compared  # needed by nothing else here
    from seedfast.evaluate.comparison import short_names
    from seedfast.evaluate.noted import Options

    names = short_names([Path(folder) for folder in folders])
    opened_as = {"step": step, "weights": weights, "device": device, "trust": trust}
    models = {name: load(folder, **opened_as) for name, folder in zip(names, folders, strict=True)}  # type: ignore[arg-type]
    given = {name: value for name, value in options.items() if value not in (None, ())}
    by = None if judge is None else load(judge, device=device, trust=trust)
    return compared(models, Options(judge=by, **given))


def request_class(folder: Path, *, step: At = "best", trust: bool = False) -> type[Any]:
    """The class of the requests that the model in a folder takes: its fields are the options of `sample`.

    Nothing of the network is read. step, trust: as in `load`. Raises UserError if the folder holds no model.
    """
    if is_bare(folder):
        return bare_request(folder)
    checkpoint = find(folder, at=step)
    run = recipes.stored(checkpoint.folder, trust=trust)
    generator = run.objective.build(trained.restored_assets(run, checkpoint)).generator
    if generator is None:
        raise UserError(f"A model of {run.recipe} cannot be sampled from: its family has no generator.")
    kind: type[Any] = generator.Request
    return kind


def journal(folder: str | Path) -> Table:
    """The journal of a run as a table: a mapping from the names of its curves to columns (NumPy arrays).

    One row for each journal line; `table["training/loss"]` has NaN where a line has no such number. `pandas.DataFrame(
    dict(table))` takes it as it is. Raises UserError if the folder holds no run, or its journal is damaged.
    """
    return read_table(run_folder_of(Path(folder)))


def replay(
    folder: str | Path,
    step: int,
    *,
    rows: bool = False,
    data: str | Path | None = None,
    device: Device | None = None,
    trust: bool = False,
) -> Comparison:
    """Compute one step of a run again, from the checkpoint before it, and compare it with the journal.

    step: as the journal counts, from 1. rows: find the loss of each example too (`.rows`, the largest first). data:
    where the data is now, if it has moved. trust: as in `load`.
    Raises UserError for a step that the journal does not have, or data that is no longer the same.
    """
    return recompute(past(folder, data=data, device=device, trust=trust), step, rows=rows)


def diff(one: str | Path, other: str | Path, *, device: Device | None = None, trust: bool = False) -> Difference:
    """The first step at which two runs differ, and whether its examples, noise, forward pass, gradient or update do.

    trust: as in `load`, for both folders. Raises UserError for a folder that holds no run.
    """
    return difference(past(one, device=device, trust=trust), past(other, device=device, trust=trust))


def past(
    folder: str | Path, *, data: str | Path | None = None, device: Device | None = None, trust: bool = False
) -> Past:
    """A run folder opened to compute its past again: what `seedfast.verify` proves things about. Nothing is written.

    Raises UserError if the folder holds no run with a checkpoint and a journal.
    """
    if data is not None:
        named_by_user(str(data))
    place = None if data is None else str(data)
    return opened(
        Path(folder), lambda checkpoint: recipes.stored(checkpoint, trust=trust), trust=trust, data=place, device=device
    )
