"""Data that is brought to a bare model: all of it is evaluated, since no part was trained on."""

from dataclasses import replace
from typing import Any

from seedfast.data.dataset import Corpus
from seedfast.data.joined_dataset import JoinedDataset
from seedfast.data.mixture import is_mixture
from seedfast.data.prepare import SPLITS
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets, TextCorpus
from seedfast.data.text.packing import PackedDataset
from seedfast.errors import UserError


def whole_text(data: TextData, *, longest: int) -> Corpus:
    """All of a text in windows of `longest` tokens, or of fewer where the text is shorter; its assets count all of it.

    Raises UserError for data that cannot be used.
    """
    if is_mixture(data.path):
        raise UserError(f"{data.path} is a mixture, whose weights are for training: name the data of one source.")
    corpus = _fitting(data, longest)
    targets = [split.targets for split in _splits(corpus)]
    sizes = [
        split.bytes if isinstance(split, PackedDataset) else corpus.splits[name]["bytes"]
        for name, split in zip(SPLITS, _splits(corpus), strict=True)
    ]
    assets: TextAssets = corpus.assets
    counted = replace(assets, validation_tokens=sum(targets), validation_bytes=sum(sizes))
    return replace(corpus, validation=JoinedDataset(_splits(corpus)), assets=counted)


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
