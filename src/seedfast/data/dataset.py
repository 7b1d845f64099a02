"""The protocol of data: indexed examples, the corpus that holds them, and the configuration that loads it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from seedfast.data.mixture_order import MixtureOrder, Shares, Source
from seedfast.data.sample_order import Order, SampleOrder
from seedfast.errors import UserError

Batch = dict[str, Tensor]
"""Named tensors whose first dimension is the example."""
Integers = npt.NDArray[np.int64]


class Dataset(Protocol):
    """A fixed number of examples, reachable in any order at equal cost."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def batch(self, ids: list[int]) -> Batch:
        """The examples with these ids, in this order, on the CPU. Safe to call from several threads."""
        ...


@runtime_checkable
class InDocuments(Protocol):
    """A data set whose examples follow each other in documents, so that neighbours are alike."""

    def documents(self, ids: Integers) -> Integers | None:
        """The document of each example, int64 [B], as any number; None where examples are independent after all."""
        ...


class Assets(Protocol):
    """Data-derived artifacts that are stored in every checkpoint: tokenizer, class names, units."""

    def save(self, folder: Path) -> None:
        """Write them into an existing folder, as JSON or text."""
        ...


def stored_assets(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """The values that assets of a kind ("text", "image", …) have stored in a file. Raises UserError without it."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"There are no {kind} assets in {folder}: it should hold a file {name}.")
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


@dataclass(frozen=True)
class Fingerprint:
    """Identity of the data. digest: of the prepared examples. files: SHA-256 of each source file, by name."""

    digest: str
    files: dict[str, str] = field(default_factory=dict)


def describe_difference(old: Fingerprint, new: Fingerprint) -> str:
    """The files that changed, are new or are gone between two fingerprints, in words; at most three names of each."""
    groups = {
        "changed": sorted(name for name in old.files.keys() & new.files.keys() if old.files[name] != new.files[name]),
        "new": sorted(new.files.keys() - old.files.keys()),
        "gone": sorted(old.files.keys() - new.files.keys()),
    }
    parts = [
        f"{what}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in groups.items()
        if names
    ]
    return "; ".join(parts) or "the same files, prepared differently"


@dataclass(frozen=True)
class Mixed:
    """The sources of a mixture: in both splits, the examples of each follow those of the one before.

    validation: the ids of the validation examples of each source, by its name.
    """

    sources: tuple[Source, ...]
    shares: Shares
    validation: Mapping[str, range]


@dataclass(frozen=True)
class Corpus:
    """Prepared data: both splits, the assets and the fingerprint.

    sampling_weights: relative frequencies of the training examples, float64 [N]; None: all equal.
    mixed: the sources, if the data is a mixture of some.
    """

    train: Dataset
    validation: Dataset
    assets: Any  # an Assets; each family states which kind it takes
    fingerprint: Fingerprint
    sampling_weights: Tensor | None = field(default=None, kw_only=True)
    mixed: Mixed | None = field(default=None, kw_only=True)

    def order(self, *, seed: int, batch_size: int) -> SampleOrder:
        """The sample stream of the training split. batch_size: positions in a step."""
        if self.mixed:
            return MixtureOrder(self.mixed.sources, self.mixed.shares, seed=seed, batch_size=batch_size)
        return Order(size=len(self.train), seed=seed, sampling_weights=self.sampling_weights)

    @property
    def validation_sources(self) -> Mapping[str, range]:
        """The ids of the validation examples of each source of a mixture; nothing for other data."""
        return self.mixed.validation if self.mixed else {}

    def introduction(self, epochs: float) -> list[str]:
        """Lines about the data that are printed before training. epochs: the length of the run."""
        return []


class DataConfig(ABC):
    """The configuration of a data source: a frozen dataclass, the `--data.*` flags."""

    path: str
    """Where the data is."""
    takes_mixtures: ClassVar[bool] = False
    """Whether the path may be that of a mixture of several sources."""

    @abstractmethod
    def load(self) -> Corpus:
        """Prepare the data (from the cache if it has been prepared before). Raises UserError on unusable data."""

    @abstractmethod
    def restore(self, folder: Path) -> Assets:
        """The assets that `Assets.save` wrote into `folder`."""

    def with_path(self, path: str, *others: str) -> Self:
        """The same source, read from another path, or several. Raises UserError if it takes only one."""
        if others:
            raise UserError(f"This recipe takes one data set, not {path} and {' and '.join(others)}.")
        return replace(self, path=path)  # type: ignore[type-var]  # configurations are dataclasses

    def located(self) -> Self:
        """The same source with absolute paths."""
        return self

    def started(self) -> Self:
        """The same source with what a new run fixes when it starts, such as the date."""
        return self

    def with_pretrained(self, parts: Mapping[str, str]) -> Self:
        """The same source with the value "model" of an option replaced by what the model says it stands for.

        parts: the path of a pretrained part (tokenizer, image processor) by the option's name.
        """
        named: dict[str, Any] = {key: path for key, path in parts.items() if getattr(self, key, None) == "model"}
        return replace(self, **named) if named else self  # type: ignore[type-var]

    def from_checkpoint(self, folder: Path, *, before: Self) -> Self:
        """The same source with the pretrained parts that a checkpoint's assets in `folder` hold.

        before: the stored configuration; parts that are configured differently now are not taken.
        """
        return self
