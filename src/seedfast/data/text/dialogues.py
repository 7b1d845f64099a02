"""Prompts with completions, and chats: which tokens are scored, and how they are prepared.

Rows are {"prompt": …, "completion": …} or {"messages": [{"role": …, "content": …}, …]}. The loss covers only the tokens
that the model has to write: completions, and the assistant's turns as the tokenizer's chat template renders them. A
prompt is encoded by itself, exactly as it will be when the model is prompted.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.console import Bar
from seedfast.data.cache import TokenWriter, token_type
from seedfast.data.prepare import SPLITS
from seedfast.data.text.packing import PARTS
from seedfast.data.text.rows import Row, checked_text
from seedfast.data.text.sources import Document, TextSource
from seedfast.data.text.split import SKIPPED, Split, utf8_size
from seedfast.data.text.tokenizers import Subwords, Tokenizer, begin, encode_lossless
from seedfast.errors import UserError


@dataclass(frozen=True)
class ChatSource(TextSource):
    """The rows of another source as chats or prompts with completions.

    Each row is a document, and rows with the same prompt are in the same split.
    """

    source: TextSource

    @property
    def contents(self) -> dict[str, str]:
        """SHA-256 of each file by name."""
        return self.source.contents

    def check_unchanged(self) -> None:
        self.source.check_unchanged()

    def first_row(self) -> Row | None:
        return self.source.first_row()

    def rows(self) -> Iterator[tuple[str, Row]]:
        return self.source.rows()

    def documents(self) -> Iterator[Document]:
        for name, row in self.rows():
            texts = _texts(row, name)
            yield Document(name, texts[0], texts)


def is_chat(keys: Collection[str]) -> bool:
    """Whether a row with these keys has messages, or a prompt and a completion."""
    return "messages" in keys or ("prompt" in keys and "completion" in keys)


def as_chats(source: TextSource, field: str) -> TextSource:
    """The source as a `ChatSource` if its first row has no text field, but messages or a prompt and a completion."""
    first = source.first_row()
    if first is None or field in first or not is_chat(first):
        return source
    return ChatSource(source.title, source.root, source.names, skipped=source.skipped, source=source)


def _texts(row: Row, name: str) -> list[str]:
    """Every text of a row, the prompt first (for a chat: the messages before the assistant's first)."""
    if "messages" in row:
        messages = _messages(row, name)
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        return ["\n".join(m["content"] for m in messages[:first]), *(m["content"] for m in messages[first:])]
    for key in ("prompt", "completion"):
        if key not in row:
            raise UserError(f'Row {name} lacks "{key}": a dialogue has messages, or a prompt and a completion.')
    return [checked_text(row[key], key, f"Row {name}") for key in ("prompt", "completion")]


def _messages(row: Row, name: str) -> list[dict[str, str]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    ):
        raise UserError(f'Row {name} has "messages" that are no list of {{"role": …, "content": …}}: fix it.')
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"Row {name} has no message of the assistant, so no token would be scored: remove it.")
    for message in messages:
        checked_text(message["content"], "content", f"Row {name}")
    return messages


@dataclass(frozen=True)
class Example:
    """A row as token ids, which of them are scored, and the size in UTF-8 bytes of the scored text."""

    ids: list[int]
    scored: list[bool]
    bytes: int


def example(row: Row, tokenizer: Tokenizer, name: str) -> Example:
    """Encode a row; its last completion ends with end-of-text. name: the row's name in messages.

    Raises UserError for an invalid row, or a chat that the tokenizer's template cannot represent faithfully.
    """
    end, size = tokenizer.end_of_text, 0
    if "messages" in row:
        parts, size = _encode_chat(_messages(row, name), tokenizer, name)
    else:
        prompt, completion = _texts(row, name)
        encoded = encode_lossless(tokenizer, [f"row {name}"] * 2, [prompt, completion])
        prompt_ids, completion_ids = (ids.tolist() for ids in encoded)
        # As in sampling, where the model reads the beginning of the text first.
        parts = [(begin(tokenizer, prompt_ids), False), ([*completion_ids, end], True)]
        size = utf8_size(completion)
    if end not in parts[-1][0]:
        parts.append(([end], True))
    ids = [token for some, _ in parts for token in some]
    return Example(ids, [scored for some, scored in parts for _ in some], size)


def _encode_chat(
    messages: list[dict[str, str]], tokenizer: Tokenizer, name: str
) -> tuple[list[tuple[list[int], bool]], int]:
    """The parts (ids, scored) of a chat up to the assistant's last turn, and the bytes of the assistant's messages."""
    if not isinstance(tokenizer, Subwords) or tokenizer.chat_template is None:
        raise UserError(
            "Chats are rendered by a tokenizer's chat template, and this tokenizer has none: set data.tokenizer to "
            "that of a chat model, or give the rows a prompt and a completion."
        )
    for message in messages:
        if special := tokenizer.special_token_in(message["content"]):
            raise UserError(f"Row {name} contains {special!r}, a special token of the chat template: fix or remove it.")
    contents = [message["content"] for message in messages]
    encode_lossless(tokenizer, [f"row {name}"] * len(contents), contents)
    parts: list[tuple[list[int], bool]] = []
    done = ""
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        for stop, is_prompt in ((place, True), (place + 1, False)):
            rendered = tokenizer.chat_template.render(messages[:stop], add_generation_prompt=is_prompt)
            if not rendered.startswith(done):
                raise UserError(
                    f"The chat template changes earlier messages when a chat goes on (row {name}), so a turn would be "
                    "trained in another form than it is prompted in: give each turn a row of its own."
                )
            parts.append((tokenizer.encode_chat(rendered[len(done) :]), not is_prompt))
            done = rendered
    return parts, sum(utf8_size(message["content"]) for message in messages if message["role"] == "assistant")


def tokenise(source: ChatSource, split: Split, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Write the examples of each split into `folder`, and return the counts of each split."""
    counts = [{"documents": 0, "bytes": 0, "tokens": 0} for _ in SPLITS]
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("Tokenising", split.bytes))

        def writer(name: str, kind: Any) -> TokenWriter:
            return stack.enter_context(TokenWriter(folder / f"{name}.bin", kind))

        tokens = [writer(name, token_type(tokenizer.size)) for name in SPLITS]
        parts = [
            [writer(f"{name}.{part}", np.uint16 if part == "scored" else np.uint32) for part in PARTS]
            for name in SPLITS
        ]
        for (name, row), number in zip(source.rows(), split.assigned, strict=True):
            if number == SKIPPED:
                continue
            encoded = example(row, tokenizer, name)
            tokens[number].write(np.array(encoded.ids))
            values = (encoded.scored, [len(encoded.ids)], [encoded.bytes])
            for file, value in zip(parts[number], values, strict=True):
                file.write(np.array(value))
            counts[number]["documents"] += 1
            counts[number]["bytes"] += encoded.bytes
            counts[number]["tokens"] += len(encoded.ids)
            bar.advance(sum(map(utf8_size, _texts(row, name))))
    return dict(zip(SPLITS, counts, strict=True)) | {"dialogues": True}
