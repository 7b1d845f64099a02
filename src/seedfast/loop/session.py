"""A session: one process's hold on a run while it trains. `open_session` builds or resumes one (`open.py`)."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seedfast import phases
from seedfast.console import warn
from seedfast.data.dataset import Corpus, DataConfig
from seedfast.data.sample_order import SampleOrder
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.generator import Samples
from seedfast.files import FileDigest, to_json
from seedfast.listeners.base import Listener
from seedfast.loop.captured import CapturedStep
from seedfast.loop.compilation import Compiled
from seedfast.loop.config import Run
from seedfast.loop.device_numbers import DeviceNumbers
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.given_data import given_path
from seedfast.loop.left_out import batch_of
from seedfast.loop.placement.placement import Placement
from seedfast.loop.plain_config import from_mapping, read_yaml, to_yaml
from seedfast.loop.plan import Plan
from seedfast.loop.summation import Summation
from seedfast.options import classes
from seedfast.run_folder.checkpoint import Checkpoint
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.journal import Entry, Journal, ScoreEntry
from seedfast.run_folder.records import BestRecord
from seedfast.run_folder.tensors import Staging
from seedfast.run_folder.train_state import StateSnapshot, TrainState
from seedfast.version import VERSION


@dataclass(frozen=True)
class Showcase:
    """The samples of a training at a step: themselves, their files, and how they were decoded."""

    step: int
    samples: Samples
    files: tuple[Path, ...]
    decoding: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint holds that changes during the training: the state, `run.yaml`, the facts of its manifest."""

    state: StateSnapshot
    run_yaml: str
    manifest: Mapping[str, Any]


@dataclass(kw_only=True)
class Session:
    """One process's hold on a run."""

    run: Run
    folder: Path
    distributed: DistributedContext
    placement: Placement
    corpus: Corpus
    family: Family
    network: nn.Module  # as the loss calls it: wrapped for several processes
    summation: Summation
    state: TrainState
    uncut: nn.Module  # the network as its FLOPs are counted: where it is cut into shards, a copy without numbers
    order: SampleOrder
    plan: Plan
    checkpoints: Checkpoints
    journal: Journal | None  # on rank 0 only
    listeners: Listener = field(default_factory=Listener)  # on rank 0 only
    adapts_micro_batch: bool = False  # whether it is halved where it does not fit into memory
    last_event: str = ""
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # against the stored run: name → (old, new)
    validation: dict[str, ScoreEntry] | None = None  # the newest record, of step `validated`
    validated: int = 0
    showcase: Showcase | None = None  # the newest
    compiled: Compiled = "off"
    captured: CapturedStep | None = None  # where the step is a CUDA graph
    committed_best: dict[str, BestRecord] = field(default_factory=dict)  # restored when a save fails
    committed_step: int = 0
    _written: tuple[Run, str] | None = None

    @cached_property
    def numbers(self) -> DeviceNumbers:
        """Puts numbers of the host where the device reads them."""
        return DeviceNumbers(self.distributed.device)

    def positions(self, step: int) -> range:
        """The positions in the sample stream of the global batch of step `step` (0, 1, …)."""
        first = batch_of(self.run.skip, step) * self.run.batch_size
        return range(first, first + self.run.batch_size)

    def ids(self, step: int) -> list[int]:
        """The ids of the examples at these positions."""
        positions = self.positions(step)
        return self.order.ids(positions.start, positions.stop)

    @property
    def run_yaml(self) -> str:
        """The run as YAML, which every checkpoint holds. Kept, since writing it takes as long as a small step."""
        if self._written is None or self._written[0] is not self.run:
            self._written = self.run, to_yaml(self.run)
        return self._written[1]

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of a checkpoint, for its manifest: versions, hardware, data, units of the loss, classes."""
        return {
            "versions": {
                "seedfast": VERSION,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "topology": {
                "device": str(self.distributed.device),
                "processes": self.distributed.world_size,
                "threads": torch.get_num_threads(),
                "compiled": self.compiled,
                **self.placement.topology,
            },
            "fingerprint": self.corpus.fingerprint.digest,
            "measure": self.family.objective.measure.as_json(),
            "classes": classes(self.run),
        }

    def save(self) -> None:
        """Commit the state, and everything that is needed to use it alone. Raises OSError."""
        self.commit(self.snapshot())
        self.announce_best()

    def snapshot(self, staging: Staging | None = None) -> Snapshot:
        """What a checkpoint of this step holds; with a staging memory, by value in all its parts. Raises OSError."""
        size, sha256 = self.journal.flush() if self.journal else (0, None)
        manifest = {
            **self.provenance,
            "journal": size,
            "journal_sha256": sha256,
            "epoch": self.plan.epoch(self.state.step),
            "validation": self.validation if self.validation and self.validated == self.state.step else None,
        }
        return Snapshot(state=self.state.snapshot(staging), run_yaml=self.run_yaml, manifest=manifest)

    def commit(self, snapshot: Snapshot) -> None:
        """Commit a snapshot as a checkpoint, and the pointers to it. Raises OSError.

        It may run beside the training: nothing that it reads of the session changes after the first step.
        """
        saved = snapshot.state.saved
        if self.journal:
            self.journal.sync()
        self.checkpoints.save(saved.step, lambda folder: self._write(snapshot, folder), snapshot.manifest)
        self.committed_best, self.committed_step = dict(saved.best), saved.step
        self.update_pointers(saved.step, saved.best)

    def announce_best(self) -> None:
        """Tell the listeners which committed checkpoint is the best; of a run without validation, the newest."""
        if best := self.committed_best.get("ema" if self.state.average else "raw"):
            self.listeners.on_best(best.step)
        elif not len(self.corpus.validation) and self.committed_step:
            self.listeners.on_best(self.committed_step)

    def update_pointers(self, step: int, best: Mapping[str, BestRecord]) -> None:
        """Make the pointers and the retained checkpoints those of the state at `step`. Idempotent."""
        keys = {"seed": self.run.seed, "stream": "eval"}
        records = {weights: {**asdict(record), **keys} for weights, record in best.items()}
        self.checkpoints.update_pointers(step, records)

    def record(self, entry: Entry) -> None:
        """Write a line to the journal and pass it to the listeners, on rank 0."""
        if self.journal:
            self.journal.record(entry)
            self.listeners.on_entry(entry)

    def note(self, event: str, **details: Any) -> None:
        """Write an event of the process to `events.jsonl`, on rank 0."""
        self.last_event = event
        if self.journal:
            self.journal.event(event, step=self.state.step, **details)

    def warn(self, reason: str) -> None:
        """Print a warning on stderr and note it, on rank 0."""
        if self.distributed.is_main:
            warn(reason)
        self.note("warning", reason=reason)

    def _write(self, snapshot: Snapshot, folder: Path) -> Mapping[str, FileDigest]:
        sys.audit(phases.SAVE, snapshot.state.saved.step)
        shared = snapshot.state.write(folder, self.placement)
        (folder / "run.yaml").write_text(snapshot.run_yaml, "utf-8")
        (folder / "data.json").write_text(to_json(asdict(self.corpus.fingerprint)), "utf-8")
        (folder / "assets").mkdir()
        self.corpus.assets.save(folder / "assets")
        self.state.shared = dict(shared)
        return shared


def data_of(run: Run, checkpoint: Checkpoint | None) -> DataConfig:
    """The run's data, with the pretrained parts (a tokenizer) that a checkpoint holds: the hub is not asked again."""
    if checkpoint is None:
        return run.data
    data = run.data.from_checkpoint(checkpoint.assets, before=stored_run(run, checkpoint.folder).data)
    given = given_path(checkpoint.run_folder)
    if given and Path(data.path).name == given.name and not Path(data.path).exists():
        return data.with_path(str(given))  # the data lie in a run folder that has been moved
    return data


def stored_run(template: Run, folder: Path) -> Run:
    """The run stored in `folder`, given any run of the same recipe. Raises UserError if it is another recipe's."""
    path = folder / "run.yaml"
    values = read_yaml(path)
    if values.get("recipe") != template.recipe:
        raise UserError(
            f"{folder} holds a run of the recipe {values.get('recipe')}, not of {template.recipe}; use another --out."
        )
    return from_mapping(template, values, where=str(path))
