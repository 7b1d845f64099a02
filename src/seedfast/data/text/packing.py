"""Packing: whole examples, several in one window, for data of which only a part is scored (prompts and chats)."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seedfast.data.cache import read_tokens, token_type
from seedfast.data.dataset import Batch
from seedfast.data.joined_dataset import JoinedDataset
from seedfast.data.text.batch import text_batch
from seedfast.data.text.dialogues import PARTS


class Examples:
    """The prepared examples of a split, as `dialogues.tokenise` writes them.

    starts: the first token of each example, and the end of the last. lengths, scored, bytes: numbers of tokens, of
    scored tokens, and of the scored text's UTF-8 bytes, of each example.
    """

    def __init__(self, folder: Path, split: str, *, vocabulary: int) -> None:
        self._tokens = read_tokens(folder / f"{split}.bin", token_type(vocabulary))
        self._scored = read_tokens(folder / f"{split}.scored.bin", np.uint16)
        lengths, sizes = (read_tokens(folder / f"{split}.{part}.bin", np.uint32).astype(np.int64) for part in PARTS[1:])
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.lengths, self.bytes = lengths, sizes
        self.scored = np.add.reduceat(self._scored.astype(np.int64), self.starts[:-1]) if len(lengths) else lengths

    def of(self, number: int) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.bool_]]:
        """The tokens of an example, and which of them are scored."""
        here = slice(self.starts[number], self.starts[number + 1])
        return self._tokens[here], self._scored[here] > 0


class PackedDataset:
    """Windows of whole examples: each holds as many as fit, and the rest is padding, which is not scored.

    An example is in exactly one window and is never cut. One that is longer than a window is left out, and counted.
    """

    def __init__(self, folder: Path, split: str, *, vocabulary: int, context: int, padding: int) -> None:
        """folder: the prepared data (see `dialogues.tokenise`). context: the window's length. padding: its token id."""
        self._examples = found = Examples(folder, split, vocabulary=vocabulary)
        lengths = found.lengths
        self._context, self._padding = context, padding
        fits = lengths <= context + 1
        self._packs = pack(lengths, np.flatnonzero(fits), context + 1)
        self.left_out = int((~fits).sum())
        self.examples = int(fits.sum())
        self.tokens = int(lengths[fits].sum())
        self.bytes = int(found.bytes[fits].sum())
        self.targets = int(found.scored[fits].sum())

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._packs)

    def batch(self, ids: list[int]) -> Batch:
        """The windows with these ids, as a `TextBatch`: `tokens`, `scored` and `documents`."""
        shape = (len(ids), self._context + 1)
        tokens_BL = np.full(shape, self._padding, np.int64)
        scored_BL = np.zeros(shape, bool)
        documents_BL = np.zeros(shape, np.int64)
        for row, number in enumerate(ids):
            place = 0
            for document, example in enumerate(self._packs[number]):
                tokens, scored = self._examples.of(example)
                here = slice(place, place + len(tokens))
                tokens_BL[row, here], scored_BL[row, here], documents_BL[row, here] = tokens, scored, document
                place += len(tokens)
            documents_BL[row, place:] = len(self._packs[number])
        return text_batch(
            tokens=torch.from_numpy(tokens_BL),
            scored=torch.from_numpy(scored_BL[:, 1:].copy()),
            documents=torch.from_numpy(documents_BL),
        )


class JoinedPacked(JoinedDataset):
    """The packed examples of several shards or sources, one after the other. Each has windows of its own."""

    def __init__(self, parts: "Sequence[PackedDataset | JoinedPacked]") -> None:
        super().__init__(parts)
        self.left_out, self.examples, self.tokens, self.bytes, self.targets = (
            sum(getattr(part, name) for part in parts)
            for name in ("left_out", "examples", "tokens", "bytes", "targets")
        )


def pack(lengths: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], size: int) -> list[list[int]]:
    """The examples of each window of `size` tokens, by best fit decreasing (at most 11/9 of the fewest windows).

    lengths: tokens of each example. chosen: the examples to pack, none of them longer than `size`.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, window), sorted
    for example in sorted(chosen.tolist(), key=lambda example: (-int(lengths[example]), example)):
        length = int(lengths[example])
        place = bisect_left(room, (length, -1))
        if place < len(room):
            left, number = room.pop(place)
            packs[number].append(example)
        else:
            left, number = size, len(packs)
            packs.append([example])
        if left > length:
            insort(room, (left - length, number))
    return packs
