"""Prompts with completions, and chats: which tokens are scored, and how whole examples are packed into windows.

JSONL rows {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}, …]}. Only what the model is to say
is scored: completions, and the assistant's turns as the tokenizer's chat template writes them. A prompt is encoded by
itself, exactly as it will be when the model is asked.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seedfast.console import Bar
from seedfast.data.cache import TokenWriter, read_tokens, token_type
from seedfast.data.dataset import Batch
from seedfast.data.text.sources import Document, FileSource, Source, json_rows, text_of
from seedfast.data.text.split import SKIPPED, Split, utf8_size
from seedfast.data.text.tokenizers import Subwords, Tokenizer
from seedfast.errors import UserError

Row = Mapping[str, Any]
_PARTS = ("scored", "lengths", "bytes")  # beside the tokens: of each token, of each example, of each example


@dataclass(frozen=True)
class DialogueSource(FileSource):
    """JSONL files of dialogues. Each row is a document, and rows with the same prompt are on one side of the split."""

    def documents(self) -> Iterator[Document]:
        for name, row in self.rows():
            said = _said(row, name)
            yield Document(name, said[0], said)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Each row with its name."""
        for name in self.names:
            for number, row in json_rows(self.root / name):
                yield f"{name}:{number}", row


def dialogues(source: Source) -> Source:
    """The source as dialogues if it is JSONL without the text field whose first row is one; else as it is."""
    if not isinstance(source, FileSource) or any(Path(name).suffix.lower() != ".jsonl" for name in source.names):
        return source
    _, first = next(chain(*(json_rows(source.root / name) for name in source.names)), (0, {}))
    if source.field in first or not ("messages" in first or {"prompt", "completion"} <= first.keys()):
        return source
    return DialogueSource(**vars(source))


def _said(row: Row, name: str) -> list[str]:
    """Every text in a row: first the prompt (for a chat, what comes before the assistant's first turn)."""
    if "messages" in row:
        messages = _messages(row, name)
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        return ["\n".join(m["content"] for m in messages[:first]), *(m["content"] for m in messages[first:])]
    for key in ("prompt", "completion"):
        if key not in row:
            raise UserError(f'Row {name} lacks "{key}": a dialogue has messages, or a prompt and a completion.')
    return [text_of(row[key], f"Row {name}", key) for key in ("prompt", "completion")]


def _messages(row: Row, name: str) -> list[dict[str, str]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise UserError(f'Row {name} has "messages" that are no list of {{"role": …, "content": …}}: mend it.')
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"Row {name} has no message of the assistant, so there is nothing to learn: remove it.")
    for message in messages:
        text_of(message["content"], f"Row {name}", "content")
    return messages


@dataclass(frozen=True)
class Example:
    """A dialogue as ids, which of them are scored, and the bytes of the text that the scored ones stand for."""

    ids: list[int]
    scored: list[bool]
    bytes: int


def example(row: Row, tokenizer: Tokenizer, name: str) -> Example:
    """Encode a row. Its last completion ends with end-of-text. Raises UserError if that cannot be done faithfully."""
    end, completed = tokenizer.end_of_text, 0
    if "messages" in row:
        parts, completed = _chat(_messages(row, name), tokenizer, name)
    else:
        prompt, completion = _said(row, name)
        # As in sampling: a text that begins with nothing begins after an end-of-text.
        parts = [(tokenizer.encode(prompt) or [end], False), ([*tokenizer.encode(completion), end], True)]
        completed = utf8_size(completion)
    if end not in parts[-1][0]:
        parts.append(([end], True))
    ids = [token for some, _ in parts for token in some]
    return Example(ids, [scored for some, scored in parts for _ in some], completed)


def _chat(messages: list[dict[str, str]], tokenizer: Tokenizer, name: str) -> tuple[list[tuple[list[int], bool]], int]:
    """The parts of a chat up to the assistant's last turn, and the bytes of what the assistant says."""
    if not isinstance(tokenizer, Subwords) or tokenizer.template is None:
        raise UserError(
            "Chats are written by a tokenizer's chat template, and this one has none; name the tokenizer of a model "
            "that was made for chats, or give the rows a prompt and a completion."
        )
    for message in messages:
        if taken := tokenizer.special_in(message["content"]):
            raise UserError(f"Row {name} says {taken!r}, which the chat template means for itself: mend or remove it.")
    parts: list[tuple[list[int], bool]] = []
    done = ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for until, asks in ((place, True), (place + 1, False)):
            written = tokenizer.chat(messages[:until], asks=asks)
            if not written.startswith(done):
                raise UserError(
                    f"The chat template rewrites what came before when it goes on (row {name}), so a turn would be "
                    "learned in another form than it is asked for: give each turn a row of its own."
                )
            parts.append((tokenizer.encode_chat(written[len(done) :]), not asks))
            done = written
    return parts, sum(utf8_size(message["content"]) for message in messages if message["role"] == "assistant")


def tokenise(source: DialogueSource, split: Split, tokenizer: Tokenizer, folder: Path, names: tuple[str, ...]) -> Any:
    """Write the examples of each split, and return its facts."""
    counts = [{"documents": 0, "bytes": 0, "tokens": 0} for _ in names]
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("Tokenising", split.bytes))

        def open_(name: str, wide: bool = True) -> TokenWriter:
            kind = np.uint32 if wide else np.uint16
            return stack.enter_context(TokenWriter(folder / f"{name}.bin", kind))

        kind = token_type(tokenizer.size)
        tokens = [stack.enter_context(TokenWriter(folder / f"{name}.bin", kind)) for name in names]
        parts = [[open_(f"{name}.{part}", part != "scored") for part in _PARTS] for name in names]
        for (name, row), role in zip(source.rows(), split.roles, strict=True):
            if role == SKIPPED:
                continue
            one = example(row, tokenizer, name)
            tokens[role].write(np.array(one.ids))
            for writer, values in zip(parts[role], (one.scored, [len(one.ids)], [one.bytes]), strict=True):
                writer.write(np.array(values))
            counts[role]["documents"] += 1
            counts[role]["bytes"] += one.bytes
            counts[role]["tokens"] += len(one.ids)
            bar.advance(sum(map(utf8_size, _said(row, name))))
    return dict(zip(names, counts, strict=True)) | {"dialogues": True}


class Packs:
    """Windows of whole examples: each window holds as many as fit, and the rest of it is padding that is not scored.

    An example stands in one window and is never cut. One that is longer than a window is left out, and counted.
    """

    def __init__(self, folder: Path, name: str, *, vocabulary: int, context: int, padding: int) -> None:
        """The examples that `tokenise` wrote for a split; context: the length of a window; padding: the id of it."""
        self._tokens = read_tokens(folder / f"{name}.bin", token_type(vocabulary))
        self._scored = read_tokens(folder / f"{name}.scored.bin", np.uint16)
        lengths, sizes = (read_tokens(folder / f"{name}.{part}.bin", np.uint32).astype(np.int64) for part in _PARTS[1:])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._lengths, self._context, self._padding = lengths, context, padding
        fits = lengths <= context + 1
        self._packs = pack(lengths, np.flatnonzero(fits), context + 1)
        self.left_out = int((~fits).sum())
        self.bytes = int(sizes[fits].sum())
        scored = np.add.reduceat(self._scored.astype(np.int64), self._starts[:-1]) if len(lengths) else lengths
        self.targets = int(scored[fits].sum())

    def __len__(self) -> int:
        """How many windows."""
        return len(self._packs)

    def batch(self, ids: list[int]) -> Batch:
        """`tokens` int64 [B, L+1]; `scored` bool [B, L], of targets; `documents` int64 [B, L+1], one an example."""
        shape = (len(ids), self._context + 1)
        tokens_BL = np.full(shape, self._padding, np.int64)
        scored_BL = np.zeros(shape, bool)
        documents_BL = np.zeros(shape, np.int64)
        for row, number in enumerate(ids):
            place = 0
            for document, one in enumerate(self._packs[number]):
                start, length = self._starts[one], self._lengths[one]
                here, there = slice(place, place + length), slice(start, start + length)
                tokens_BL[row, here] = self._tokens[there]
                scored_BL[row, here] = self._scored[there] > 0
                documents_BL[row, here] = document
                place += length
            documents_BL[row, place:] = len(self._packs[number])
        return {
            "tokens": torch.from_numpy(tokens_BL),
            "scored": torch.from_numpy(scored_BL[:, 1:].copy()),
            "documents": torch.from_numpy(documents_BL),
        }


def pack(lengths: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], size: int) -> list[list[int]]:
    """Which examples share a window of `size` tokens: best fit, longest first (at most 11/9 of the fewest windows)."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, pack), sorted
    for one in sorted(chosen.tolist(), key=lambda one: (-int(lengths[one]), one)):
        length = int(lengths[one])
        at = bisect_left(room, (length, -1))
        if at < len(room):
            left, number = room.pop(at)
            packs[number].append(one)
        else:
            left, number = size, len(packs)
            packs.append([one])
        if left > length:
            insort(room, (left - length, number))
    return packs
