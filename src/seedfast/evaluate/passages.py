"""Texts as the tokens of a judge: what a model wrote, and held-out text of the same length."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from seedfast.data.dataset import Dataset, Integers
from seedfast.data.text import tokenizers
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer


class Passage(NamedTuple):
    """A text as the judge's tokens. given: which of them were given to the writer, and are not scored. document: of
    held-out text, as any number (see `document_numbers`); None for samples, which are independent."""

    ids: list[int]
    given: list[bool]
    document: int | None = None

    @property
    def written(self) -> list[int]:
        """The tokens that the writer wrote."""
        return [id_ for id_, given in zip(self.ids, self.given, strict=True) if not given]

    @property
    def scored(self) -> list[bool]:
        """Which tokens after the first are scored."""
        return [not given for given in self.given[1:]]

    @property
    def scored_ids(self) -> list[int]:
        """The tokens that are scored."""
        return [id_ for id_, scored in zip(self.ids[1:], self.scored, strict=True) if scored]

    def cut(self, tokens: int) -> "Passage":
        """The first tokens of it."""
        return self._replace(ids=self.ids[:tokens], given=self.given[:tokens])


def documents_among(passages: Sequence[Passage]) -> Integers | None:
    """The document of each passage; None where they are independent."""
    found = [each.document for each in passages if each.document is not None]
    return np.array(found, np.int64) if len(found) == len(passages) else None


_CUT = re.compile("^\ufffd{1,3}|\ufffd$")
"""What is decoded from the bytes of a character that is cut off at either end of a text."""


@dataclass(frozen=True)
class Conversion:
    """From the tokens of a writer to those of a judge.

    The same tokenizer takes them as they are: a text that is cut inside a character could not be encoded again to the
    same tokens. Another one encodes the text of each run of given and of written tokens, without characters cut off.
    """

    writer: Tokenizer
    judge: Tokenizer

    @cached_property
    def _is_same(self) -> bool:
        return tokenizers.digest(self.writer) == tokenizers.digest(self.judge)

    def __call__(self, ids: Sequence[int], given: Sequence[bool]) -> Passage:
        if self._is_same:
            return Passage(list(ids), list(given))
        found = Passage([], [])
        for is_given, run in groupby(zip(ids, given, strict=True), key=itemgetter(1)):
            encoded = self.judge.encode(_CUT.sub("", self.writer.decode([id_ for id_, _ in run])))
            found.ids.extend(encoded)
            found.given.extend([is_given] * len(encoded))
        return found


def spread_ids(validation: Dataset, count: int) -> list[int]:
    """The ids of `count` windows, spread evenly over the split (fewer if it is small)."""
    count = min(count, len(validation))
    return [index * len(validation) // count for index in range(count)]


def real_windows(assets: TextAssets, validation: Dataset, count: int, length: int) -> list[list[int]]:
    """`count` pieces of held-out text of up to `length` tokens, those of `spread_ids`."""
    windows: list[list[int]] = validation.batch(spread_ids(validation, count))["tokens"][:, 1 : 1 + length].tolist()
    end = assets.tokenizer.end_of_text
    return [window[: window.index(end)] if end in window else window for window in windows]


def real_texts(assets: TextAssets, validation: Dataset, count: int, length: int) -> list[str]:
    """The same as texts, of at least two tokens each, without characters that are cut off at their ends."""
    windows = real_windows(assets, validation, count, length)
    texts = [_CUT.sub("", text) for text in map(assets.tokenizer.decode, windows)]
    return [text for text in texts if len(assets.tokenizer.encode(text)) > 1]
