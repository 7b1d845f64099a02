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
from seedfast.loop.config import Run, from_mapping, read_yaml, to_yaml
from seedfast.loop.device_numbers import DeviceNumbers
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.given_data import given_path
from seedfast.loop.left_out import batch_of
from seedfast.loop.plan import Plan
from seedfast.options import classes
from seedfast.run_folder.checkpoint import Checkpoint, Checkpoints
from seedfast.run_folder.journal import Entry, Journal, ScoreEntry
from seedfast.run_folder.records import BestRecord
from seedfast.run_folder.train_state import TrainState
from seedfast.version import VERSION


@dataclass(frozen=True)
class Showcase:
    """The samples of a training at a step: themselves, their files, and how they were decoded."""

    step: int
    samples: Samples
    files: tuple[Path, ...]
    decoding: str


@dataclass(kw_only=True)
class Session:
    """One process's hold on a run."""

    run: Run
    folder: Path
    distributed: DistributedContext
    corpus: Corpus
    family: Family
    network: nn.Module  # as the loss calls it: wrapped for several processes
    state: TrainState
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
            },
            "fingerprint": self.corpus.fingerprint.digest,
            "measure": self.family.objective.measure.as_json(),
            "classes": classes(self.run),
        }

    def save(self) -> None:
        """Commit the state, and everything that is needed to use it alone. Raises OSError."""
        if self.journal:
            self.journal.flush()
        manifest = {
            **self.provenance,
            "journal": self.journal.size if self.journal else 0,
            "epoch": self.plan.epoch(self.state.step),
            "validation": self.validation if self.validation and self.validated == self.state.step else None,
        }
        self.checkpoints.save(self.state.step, self._write, manifest)
        self.committed_best = dict(self.state.best)
        self.update_pointers()
        self.announce_best()

    def announce_best(self) -> None:
        """Tell the listeners which committed checkpoint is the best; of a run without validation, the newest."""
        if best := self.state.best.get("ema" if self.state.average else "raw"):
            self.listeners.on_best(best.step)
        elif not len(self.corpus.validation) and self.state.step:
            self.listeners.on_best(self.state.step)

    def update_pointers(self) -> None:
        """Make the pointers and the retained checkpoints those of this state. Idempotent."""
        keys = {"seed": self.run.seed, "stream": "eval"}
        best = {weights: {**asdict(record), **keys} for weights, record in self.state.best.items()}
        self.checkpoints.update_pointers(self.state.step, best)

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

    def _write(self, folder: Path) -> Mapping[str, FileDigest]:
        sys.audit(phases.SAVE, self.state.step)
        shared = self.state.write(folder)
        (folder / "run.yaml").write_text(self.run_yaml)
        (folder / "data.json").write_text(to_json(asdict(self.corpus.fingerprint)))
        (folder / "assets").mkdir()
        self.corpus.assets.save(folder / "assets")
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
