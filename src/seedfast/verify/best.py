"""The proof of `best.json`: a scan of the validations gives it again, and so does validating its checkpoint again."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from seedfast.errors import UserError
from seedfast.files import finite
from seedfast.loop.session import Session
from seedfast.loop.validate import validate_session
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.records import read_best
from seedfast.verify.finding import Finding
from seedfast.verify.past import Past
from seedfast.verify.replay import is_close

_SCORE = ("loss", "standard_error", "weight", "examples", "draws")


def prove_best(past: Past) -> list[Finding]:
    """Scan the validations of a run, and validate the best checkpoint of each kind of weights again.

    Raises UserError where the data or the code of the run is not what it was.
    """
    stored = best_record(past)
    if not stored:
        return [Finding("best", None, "nothing was validated, so no checkpoint is the best")]
    found = []
    for number, (kind, record) in enumerate(sorted(stored.items())):
        checkpoint = next((each for each in past.checkpoints if each.step == record["step"]), None)
        if checkpoint is None:
            found.append(Finding("evaluation", False, f"the checkpoint of the best step {record['step']} is missing"))
            continue
        with past.session(past.runs_of(checkpoint.step)[0], checkpoint) as session:
            found += scan(past, session) if number == 0 else []
            found.append(evaluation(past, session, checkpoint, kind))
    return found


def best_record(past: Past) -> Mapping[str, Mapping[str, Any]]:
    """The contents of `best.json` by kind of weights. Raises UserError if there is none, or it cannot be read."""
    if not (past.folder / "best.json").exists():
        raise UserError(f"{past.folder} has no best.json.")
    return read_best(past.folder)


def scan(past: Past, session: Session) -> Iterator[Finding]:
    """Whether the validations in the journal, in the checkpoints and in `best.json` agree, and which is the best."""
    newest = past.checkpoints[-1]
    wrong = [f"best.json does not name the best validation of the {kind} weights"
             for kind in _differing(best_record(past), best_of(past, session, newest.step, keys=True))]  # fmt: skip
    for checkpoint in past.checkpoints:
        expected = best_of(past, session, checkpoint.step)
        stored = {kind: asdict(record) for kind, record in checkpoint.best.items()}
        wrong += [
            f"{checkpoint.folder.name} has another best of the {kind} weights" for kind in _differing(stored, expected)
        ]
        validation = checkpoint.manifest.validation
        if validation is not None and validation != past.validations.get(checkpoint.step):
            wrong.append(f"the validation in {checkpoint.folder.name} is not that of the journal")
    count = len(past.validations)
    yield Finding("best", not wrong, "; ".join(wrong) or f"a scan of {count} validations gives best.json")


def _differing(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """The kinds of weights whose records differ. Earlier versions stored no epoch."""

    def known(record: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (record or {}).items() if key != "epoch"}

    return [
        kind for kind in sorted(stored.keys() | expected.keys()) if known(stored.get(kind)) != known(expected.get(kind))
    ]


def best_of(past: Past, session: Session, step: int, *, keys: bool = False) -> dict[str, dict[str, Any]]:
    """The best validation up to a step, of each kind of weights, by the journal: the first of the best values.

    keys: with those of the evaluation, as `best.json` has them.
    """
    run, metric = session.run, session.run.best_metric
    sign = session.family.objective.measure.metrics.get(metric, -1)
    best: dict[str, dict[str, Any]] = {}
    for here, scores in sorted(past.validations.items()):
        for kind, score in scores.items() if here <= step else ():
            value = score.get(metric, score.get("diagnostics", {}).get(metric))
            if not _is_number(value) or not _is_number(score["loss"]):
                continue
            if kind not in best or sign * value > sign * best[kind]["value"]:
                record = {key: score.get(key) for key in ("loss", "standard_error", "examples", "draws")}
                best[kind] = {"step": here, **record, "metric": metric, "value": value}
    return {kind: {**record, **({"seed": run.seed, "stream": "eval"} if keys else {})} for kind, record in best.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def evaluation(past: Past, session: Session, checkpoint: Checkpoint, kind: str) -> Finding:
    """Whether a checkpoint's validation, computed again, is that of the journal."""
    recorded = past.validations.get(checkpoint.step, {}).get(kind)
    where = f"the validation of the {kind} weights at step {checkpoint.step}"
    if recorded is None:
        return Finding("evaluation", False, f"{where} is not in the journal")
    average = session.state.average
    network = session.state.network if kind == "raw" or average is None else average.network
    score = validate_session(session, network)
    is_older = score.blocks is not None and "blocks" not in recorded  # its error took windows as independent
    keys = [key for key in _SCORE if key != "standard_error" or not is_older]
    computed = finite({key: getattr(score, key) for key in keys})
    same = all(recorded.get(key) == computed[key] for key in keys)
    close = past.elsewhere is not None and all(is_close(recorded.get(key), computed[key]) for key in keys)
    what = "equal to the last bit" if same else "equal up to rounding" if close else "it is not what was recorded"
    return Finding("evaluation", same or close, f"{where}: {recorded['loss']:.6g}, computed {score.loss:.6g}: {what}")
