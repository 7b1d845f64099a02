"""The runs of a study: each an ordinary run folder, trained by `seedfast.train`, measured as `seedfast compare` does.

What is known of a run is committed beside the run folders, so a study that was killed continues with the run that it
was at, and a run in the middle with its own checkpoint: with the same bits as a study that was not killed.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedfast import api
from seedfast.console import silenced
from seedfast.errors import UserError
from seedfast.evaluate.comparison import refuse_other_bytes
from seedfast.evaluate.effort import effort
from seedfast.evaluate.held_out import HeldOut
from seedfast.evaluate.noted import Options, measured
from seedfast.evaluate.pairing import Cut
from seedfast.evaluate.trained import Trained
from seedfast.files import commit, to_json
from seedfast.run_folder.journal import Entry
from seedfast.scaling.law import Floats
from seedfast.scaling.plan import Plan, PlannedRun
from seedfast.scaling.request import DRAWS
from seedfast.untrusted import read_json

RUNS, RESULTS, DEPLOYED = "runs", "results", "deployed"
_WINDOWS = 16  # on which the exact likelihood of a sampler is measured


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A trained run on the held-out text.

    value, standard_error: bits per byte; is_bound: from above. flops, tokens: of its training. totals: nats of each
    window, and sizes, documents, contents: how the windows cut the text (see `Cut`). digest: of the text. seal: of the
    checkpoint that was measured.
    """

    name: str
    family: str
    size: int
    in_fit: bool
    value: float
    standard_error: float
    is_bound: bool
    flops: float
    tokens: float
    epochs: float
    parameters: int
    steps: int
    seconds: float
    seal: str
    digest: str
    totals: tuple[float, ...]
    sizes: tuple[int, ...]
    documents: tuple[int, ...] | None
    contents: str

    @property
    def n(self) -> float:
        """The size in the law: FLOPs for each token / 6."""
        return self.flops / self.tokens / 6

    @property
    def cut(self) -> Cut:
        """How the windows cut the text."""
        documents = None if self.documents is None else np.array(self.documents, np.int64)
        return Cut(np.array(self.sizes, np.int64), documents, bytes.fromhex(self.contents))

    @property
    def nats(self) -> Floats:
        """The nats of each window."""
        return np.array(self.totals)

    def record(self) -> dict[str, Any]:
        """As JSON values, without the windows."""
        hidden = ("totals", "sizes", "documents", "contents")
        return {"n": self.n, **{key: value for key, value in asdict(self).items() if key not in hidden}}


def known(folder: Path, planned: PlannedRun) -> Measured | None:
    """The result of a planned run; None if it is not finished. Raises UserError for a result that cannot be read."""
    path = folder / RESULTS / f"{planned.name}.json"
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        if "is_ordered" in stored:  # formerly, without the documents: as if the text were one
            stored["documents"] = [0] * len(stored["sizes"]) if stored.pop("is_ordered") else None
        tuples = {name: stored[name] and tuple(stored[name]) for name in ("totals", "sizes", "documents")}
        return Measured(**{**stored, **tuples})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, and the run is measured again.") from error


def train_and_measure(folder: Path, plan: Plan, planned: PlannedRun, tell: Callable[[int], None]) -> None:
    """Train a run to its end, or the rest of it, measure it, and commit the result. tell: called with 1 at each step.

    Raises as `seedfast.train` does: KeyboardInterrupt after a checkpoint is saved.
    """
    place = folder / RUNS / planned.name
    place.parent.mkdir(parents=True, exist_ok=True)

    def advance(entry: Entry) -> None:
        if "validation" not in entry:
            tell(1)

    api.train(plan.run(planned), place, progress=advance)
    model = api.load(place, step="newest")  # the weights at the end, by the schedule that led there
    found = _measured(planned, model)
    (folder / RESULTS).mkdir(exist_ok=True)
    commit(folder / RESULTS / f"{planned.name}.json", to_json(asdict(found)))


def _measured(planned: PlannedRun, model: Trained) -> Measured:
    with silenced():
        loss = measured(planned.name, model, Options(only=("loss",), draws=DRAWS))["loss"]
    held_out, spent = HeldOut(model.corpus), effort(model)
    cut = held_out.cut
    if not all(np.isfinite(loss.totals)):
        raise UserError(
            f"The loss of {planned.name} is not finite, so no law can be fitted: leave {planned.family} out."
        )
    return Measured(
        name=planned.name,
        family=planned.family,
        size=planned.size,
        in_fit=planned.in_fit,
        value=loss.record["bits_per_byte"],
        standard_error=loss.record["bits_per_byte_standard_error"],
        is_bound=loss.record["is_bound"],
        flops=planned.flops,
        tokens=spent.seen,
        epochs=spent.epochs or 0.0,
        parameters=spent.parameters,
        steps=planned.steps,
        seconds=spent.seconds,
        seal=model.committed.manifest.seal,
        digest=held_out.digest,
        totals=loss.totals,
        sizes=tuple(cut.sizes_E.tolist()),
        documents=None if cut.documents_E is None else tuple(cut.documents_E.tolist()),
        contents=cut.contents.hex(),
    )


def needs_exact(folder: Path, planned: PlannedRun) -> bool:
    """Whether the exact likelihood of the sampler of a run is to be measured: its value is a bound."""
    found = known(folder, planned)
    return found is not None and found.is_bound and not (folder / DEPLOYED / f"{planned.name}.json").is_file()


def exact(folder: Path, found: Measured) -> tuple[float, float] | None:
    """The exact likelihood of the sampler of a run whose value is a bound, bits per byte with its standard error.

    It is measured once, on a few windows. None for families whose sampler has none, or where it is infinite.
    """
    path = folder / DEPLOYED / f"{found.name}.json"
    if path.is_file():
        try:
            stored = read_json(path)
            return None if stored["value"] is None else (float(stored["value"]), float(stored["standard_error"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({error}): remove it, and it is measured again.") from error
    model = api.load(folder / RUNS / found.name, step="newest")
    with silenced():
        result = measured(found.name, model, Options(only=("deployed",), windows=_WINDOWS)).get("deployed")
    record = {} if result is None else result.record
    value, deviation = record.get("deployed"), record.get("deployed_standard_error")
    path.parent.mkdir(exist_ok=True)
    commit(path, to_json({"value": value, "standard_error": deviation}))
    return None if value is None or deviation is None else (value, deviation)


def refuse_other_texts(folder: Path, found: list[Measured]) -> None:
    """Raise UserError if two families are measured on other bytes, with how they differ."""
    first = found[0]
    for other in found[1:]:
        if other.digest != first.digest:
            models = {each.name: api.load(folder / RUNS / each.name) for each in (first, other)}
            refuse_other_bytes(*((name, model, HeldOut(model.corpus)) for name, model in models.items()))
