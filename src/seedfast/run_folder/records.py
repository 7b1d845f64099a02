"""The JSON files of a checkpoint as typed values: `manifest.json`, `state.json`, and the best validations in it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from seedfast import sealed_folder
from seedfast.errors import UserError
from seedfast.families.measure import Measure
from seedfast.files import FileDigest
from seedfast.run_folder.journal import ScoreEntry
from seedfast.untrusted import read_json

STATE = "state.json"


@dataclass(frozen=True)
class BestRecord:
    """The best committed validation so far, of one kind of weights."""

    step: int
    loss: float
    standard_error: float | None
    examples: int
    draws: int
    metric: str
    """The metric that chose it: "loss", or one of the metrics of the family."""
    value: float
    epoch: float | None = None
    """The passes over the training examples until then; None in earlier versions."""

    @staticmethod
    def of(record: Mapping[str, Any]) -> "BestRecord":
        """A record of `state.json`; the earliest checkpoints have no metric but the loss.

        Raises TypeError or KeyError for anything else.
        """
        found = BestRecord(**{"metric": "loss", "value": record["loss"], **record})
        number = float | int
        _require(found, step=int, loss=number, examples=int, draws=int, metric=str, value=number)
        _require(found, standard_error=number | None, epoch=number | None)
        return found


def read_best(run_folder: Path) -> dict[str, dict[str, Any]]:
    """`best.json`: the best validation by kind of weights, each a `BestRecord` and what else was stored of it; empty
    before the first validation.

    Raises UserError if it cannot be read, or holds anything else.
    """
    path = run_folder / "best.json"
    try:
        stored = read_json(path, root=run_folder)
        for weights, record in stored.items():
            BestRecord.of({f.name: record[f.name] for f in fields(BestRecord) if f.name in record})
            if weights not in ("raw", "ema"):
                raise KeyError(weights)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold the best validations of a run: {error}.") from error
    return dict(stored)


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """The manifest of a checkpoint.

    files: size and SHA-256 of each file by its path relative to the checkpoint.
    versions, topology: of the software; of device, processes and threads.
    fingerprint: digest of the data. measure: units of the loss.
    journal, journal_sha256: bytes of `journal.jsonl` at the commit, and their SHA-256, which earlier versions lack.
    epoch: passes over the training examples; None in earlier versions.
    validation: scores of the validation at this very step by kind of weights ("raw", "ema"); None without one.
    classes: the classes of the run's parts, so that a run of an own recipe is opened without the recipe's file.
    seal: SHA-256 of the manifest, which identifies the checkpoint.
    """

    step: int
    files: Mapping[str, FileDigest]
    versions: Mapping[str, str] = field(default_factory=dict)
    topology: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    measure: Measure = field(default_factory=Measure)
    journal: int = 0
    journal_sha256: str | None = None
    epoch: float | None = None
    validation: Mapping[str, ScoreEntry] | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    seal: str

    def facts(self) -> dict[str, Any]:
        """The keys with which another checkpoint of the same origin is saved."""
        stored = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("step", "files", "seal")}
        return {**stored, "measure": self.measure.as_json()}

    @staticmethod
    def read(folder: Path) -> "CheckpointManifest":
        """The manifest in a checkpoint folder. Raises OSError or ValueError if it cannot be read or was altered."""
        manifest = sealed_folder.Manifest.read(folder)
        named = {name: value for name, value in manifest.entries.items() if name in _FIELDS}
        measure = manifest.entries.get("measure") or manifest.entries.get("family") or {}  # "family" in version 0.1
        try:
            found = CheckpointManifest(
                files=manifest.files, seal=manifest.seal, **{**named, "measure": Measure.from_json(measure)}
            )
            _require(
                found,
                step=int,
                versions=dict,
                topology=dict,
                journal=int,
                journal_sha256=str | None,
                validation=dict | None,
                classes=dict,
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"no manifest of a checkpoint: {error}") from error
        return found


_FIELDS = {f.name for f in fields(CheckpointManifest)}


def _require(record: Any, **kinds: Any) -> None:
    """Raise TypeError for a field of another kind: checkpoints may come from strangers."""
    for name, kind in kinds.items():
        if not isinstance(value := getattr(record, name), kind):
            raise TypeError(f"{name} is {value!r:.60}")


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """`state.json`: everything in a training state that is not a tensor.

    shared: the files beside the checkpoints that this one needs (frozen weights), by name.
    """

    step: int
    skipped: int
    plateau: Mapping[str, Any]
    best: Mapping[str, BestRecord]
    scaler: Mapping[str, Any]
    shared: Mapping[str, FileDigest]

    def as_json(self) -> dict[str, Any]:
        """The contents of `state.json`."""
        return asdict(self)

    @staticmethod
    def read(folder: Path) -> "SavedState":
        """The state in a checkpoint folder. Raises OSError or ValueError if it cannot be read."""
        stored = read_json(folder / STATE)
        try:
            found = SavedState(
                step=stored["step"],
                skipped=stored["skipped"],
                plateau=stored["plateau"],
                best={weights: BestRecord.of(record) for weights, record in stored["best"].items()},
                scaler=stored["scaler"],
                shared=stored.get("shared", stored.get("kept", {})),  # "kept" in version 0.1
            )
            _require(found, step=int, skipped=int, plateau=dict, scaler=dict, shared=dict)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / STATE} is not the state of a checkpoint: {error}") from error
        return found
