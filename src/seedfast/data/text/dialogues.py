"""Prompts with completions, and chats: which tokens are scored, and how they are prepared.

The loss covers only the tokens that the model has to write: completions, and the assistant's turns as the tokenizer's
chat template renders them. A prompt is encoded by itself, exactly as it will be when the model is prompted.
`row_forms` lists the rows that are read.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seedfast.console import Bar, say
from seedfast.data.cache import TokenWriter, token_type
from seedfast.data.json_rows import Row
from seedfast.data.prepare import SPLITS
from seedfast.data.text.chat_turns import rendered_turns
from seedfast.data.text.fields import FIELDS, TEXT, in_lower_case
from seedfast.data.text.row_forms import (
    WANTED,
    Chat,
    Pair,
    dialogue,
    dialogue_forms,
    is_dialogue,
    message_text,
    refuse_unsupported,
)
from seedfast.data.text.sources import Document, SourceRow, TextSource
from seedfast.data.text.split import SKIPPED, Split, utf8_size
from seedfast.data.text.tokenizers import Subwords, Tokenizer, begin, encode_lossless
from seedfast.errors import UserError

PARTS = ("scored", "lengths", "bytes")
"""The files SPLIT.PART.bin beside the tokens: a flag for each token, a length and a size for each example."""


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

    @property
    def has_split(self) -> bool:
        return self.source.has_split

    def rows(self, columns: Collection[str] | None = None) -> Iterator[SourceRow]:
        for place, row, split in self.source.rows(FIELDS):
            yield SourceRow(place, in_lower_case(row), split)

    def documents(self) -> Iterator[Document]:
        for place, row, split in self.rows():
            texts = texts_of(self.dialogues(row, place))
            yield Document(place, texts[0], texts, split)

    def dialogues(self, row: Row, place: str) -> list[Pair | Chat]:
        """What a row is made of: itself. place: its name in messages. Raises UserError for a bad row."""
        return [dialogue(row, place)]


def texts_of(made: Sequence[Pair | Chat]) -> list[str]:
    """Every text of the dialogues of a row, which have one prompt; it comes first."""
    prompt, *_ = made[0].texts
    return [prompt, *(text for each in made for text in each.texts[1:])]


def as_chats(source: TextSource, field: str | None) -> TextSource:
    """The source as a `ChatSource` if its first row is a chat or a prompt with a completion.

    field: that of the texts, if the user names one: rows that have it are texts. Raises UserError for rows of a form
    that is not supported.
    """
    first = source.first_row()
    if first is None or (field is not None and field in first.row):
        return source
    place, row = first.place, in_lower_case(first.row)
    forms = dialogue_forms(row)
    if not forms and (field or TEXT) in row:
        return source
    is_named = field not in (None, TEXT)  # runs of earlier versions store the default
    if is_named or not is_dialogue(row):
        if not is_named:
            refuse_unsupported(row, place)
        raise UserError(
            f'{place} lacks the field "{field or TEXT}" (its fields are {", ".join(map(str, row))}): set data.field to '
            f"the one that holds the text, or, for dialogues, {WANTED}."
        )
    if source.has_plain_texts:
        raise UserError(
            f"{source.title} holds dialogues ({place}) beside plain texts, which are prepared in different ways: "
            "choose one kind with data.include."
        )
    used, *others = forms or [()]
    others += [(TEXT,)] if used and row.get(TEXT) is not None else []
    if others:
        left_out = ", ".join(" and ".join(form) for form in others)
        say(
            f"The rows of {source.title} are read as dialogues by {' and '.join(used)}, and only the answers are "
            f"scored; not used beside that: {left_out} (--data.field NAME trains on one field as plain text)."
        )
    return ChatSource(source.title, source.root, source.names, skipped=source.skipped, source=source)


@dataclass(frozen=True)
class ChatExample:
    """A row as token ids, which of them are scored, and the size in UTF-8 bytes of the scored text."""

    ids: list[int]
    scored: list[bool]
    bytes: int


def example(made: Pair | Chat, tokenizer: Tokenizer, name: str) -> ChatExample:
    """Encode a dialogue; its last completion ends with end-of-text. name: its row's name in messages.

    Raises UserError for a chat that the tokenizer's template cannot represent faithfully.
    """
    end = tokenizer.end_of_text
    template = tokenizer.chat_template if isinstance(tokenizer, Subwords) else None
    if isinstance(made, Chat) and template is None:
        if made.pair is None:
            raise UserError(
                f"{name} is a chat, whose messages a tokenizer's chat template renders, and this tokenizer has none: "
                'set data.tokenizer to that of a chat model, or give the rows a "prompt" and a "completion" as texts.'
            )
        made = made.pair
    if isinstance(made, Pair):
        prompt, completion = (ids.tolist() for ids in encode_lossless(tokenizer, [name] * 2, made.texts))
        # As in sampling, where the model reads the beginning of the text first.
        parts = [(begin(tokenizer, prompt), False), ([*completion, end], True)]
        size = utf8_size(made.completion)
    else:
        assert isinstance(tokenizer, Subwords)
        assert template is not None
        _check_texts(made, tokenizer, name)
        turns = rendered_turns(made, template, name)
        parts = [(tokenizer.encode_chat(text), is_scored) for text, is_scored in turns]
        size = sum(utf8_size(message_text(made.messages[place])) for place in made.scored)
    if end not in parts[-1][0]:
        parts.append(([end], True))
    ids = [token for some, _ in parts for token in some]
    return ChatExample(ids, [scored for some, scored in parts for _ in some], size)


def _check_texts(chat: Chat, tokenizer: Subwords, name: str) -> None:
    """Raise UserError for a text with a special token, or one that the tokenizer does not give back."""
    texts = [*map(message_text, chat.messages), json.dumps(chat.tools, ensure_ascii=False)]
    for text in texts:
        if special := tokenizer.special_token_in(text):
            raise UserError(f"{name} contains {special!r}, a special token of the chat template: fix or remove it.")
    encode_lossless(tokenizer, [name] * len(texts), texts)


def tokenise(
    source: ChatSource, split: Split, tokenizer: Tokenizer, folder: Path, *, is_shard: bool = False
) -> dict[str, Any]:
    """Write the examples of each split into `folder`, and return the counts of each split.

    Raises UserError for an invalid row, and if all of several examples are equal, unless they are only a shard.
    """
    counts = [{"documents": 0, "bytes": 0, "tokens": 0} for _ in SPLITS]
    first: list[ChatExample] | None = None
    rows, has_others = 0, False
    with ExitStack() as stack:
        bar = stack.enter_context(Bar("Tokenising", split.bytes))

        def writer(name: str, kind: Any) -> TokenWriter:
            return stack.enter_context(TokenWriter(folder / f"{name}.bin", kind))

        tokens = [writer(name, token_type(tokenizer.size)) for name in SPLITS]
        parts = [
            [writer(f"{name}.{part}", np.uint16 if part == "scored" else np.uint32) for part in PARTS]
            for name in SPLITS
        ]
        for (place, row, _), number in zip(source.rows(), split.assigned, strict=True):
            if number == SKIPPED:
                continue
            made = source.dialogues(row, place)
            examples = [example(each, tokenizer, place) for each in made]
            first, rows = first or examples, rows + 1
            has_others |= examples != first
            for each in examples:
                tokens[number].write(np.array(each.ids))
                values = (each.scored, [len(each.ids)], [each.bytes])
                for file, value in zip(parts[number], values, strict=True):
                    file.write(np.array(value))
                counts[number]["documents"] += 1
                counts[number]["bytes"] += each.bytes
                counts[number]["tokens"] += len(each.ids)
            bar.advance(sum(map(utf8_size, texts_of(made))))
    if rows > 1 and not (has_others or is_shard):
        raise UserError(
            f"All {rows} examples of {source.title} are equal, so there is nothing to validate on: give rows whose "
            "messages, or prompts and completions, differ."
        )
    return dict(zip(SPLITS, counts, strict=True)) | {"dialogues": True}
