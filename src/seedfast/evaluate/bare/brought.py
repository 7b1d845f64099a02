"""Data that is brought to a bare model: all of it is evaluated, since no part was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from seedfast.data.dataset import Batch, Corpus, Dataset
from seedfast.data.prepare import SPLITS
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets, TextCorpus
from seedfast.data.text.packing import PackedDataset
from seedfast.errors import UserError


@dataclass(frozen=True)
class Joined:
    """Several splits as one, one after the other."""

    parts: Sequence[Dataset]

    def __len__(self) -> int:
        """The number of examples."""
        return sum(map(len, self.parts))

    def batch(self, ids: list[int]) -> Batch:
        """The examples with these ids, in this order."""
        rows = [self._one(number) for number in ids]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _one(self, number: int) -> Batch:
        for part in self.parts:
            if number < len(part):
                return part.batch([number])
            number -= len(part)
        raise IndexError(f"there are {len(self)} examples")


def whole_text(data: TextData, *, longest: int) -> Corpus:
    """All of a text in windows of `longest` tokens, or of fewer where the text is shorter; its assets count all of it.

    Raises UserError for data that cannot be used.
    """
    corpus = _fitting(data, longest)
    targets = [split.targets for split in _splits(corpus)]
    sizes = [
        split.bytes if isinstance(split, PackedDataset) else corpus.splits[name]["bytes"]
        for name, split in zip(SPLITS, _splits(corpus), strict=True)
    ]
    assets: TextAssets = corpus.assets
    counted = replace(assets, validation_tokens=sum(targets), validation_bytes=sum(sizes))
    return replace(corpus, validation=Joined(_splits(corpus)), assets=counted)


def _splits(corpus: TextCorpus) -> list[Any]:
    return [corpus.train, corpus.validation]


def _fitting(data: TextData, longest: int) -> TextCorpus:
    """The corpus in the longest windows that it fills."""
    try:
        return replace(data, context=longest).load()
    except UserError:
        # A text may be shorter than one window. The smallest window shows its length; it also fails on unusable data.
        targets = [split.targets for split in _splits(replace(data, context=1).load()) if len(split)]
        if min(targets) >= longest:
            raise
    try:
        return replace(data, context=min(longest, sum(targets))).load()
    except UserError:
        return replace(data, context=min(targets)).load()
