"""A shard: a file of a source that is tokenised by itself, into a sealed folder of its own in the cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seedfast.data.cache import cached_folder
from seedfast.data.fingerprint import Signature, signature
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.rows import row_file
from seedfast.data.text.sources import TextFileSource, TextSource
from seedfast.data.text.tokenize import fill_shard
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError


@dataclass(frozen=True)
class ShardOptions:
    """What besides a file shapes its tokens. is_chats: whether its rows are chats or prompts with completions."""

    field: str
    validation: float
    is_chats: bool

    def source(self, shard: "Shard") -> TextSource:
        """A file as a source of its own."""
        root, name = shard.root, shard.name
        rows = row_file(root / name, self.field) if shard.is_rows else None
        files, splits = {name: rows} if rows else {}, {name: shard.split} if shard.split else {}
        source = TextFileSource(str(root / name), root, (name,), row_files=files, splits=splits, field=self.field)
        return ChatSource(source.title, root, (name,), source=source) if self.is_chats else source


class Shard(NamedTuple):
    """A file of a source.

    is_rows: whether it holds rows. contents: its SHA-256. signature: when that was computed. split: "train" or
    "validation" if its name gives one.
    """

    root: Path
    name: str
    is_rows: bool
    contents: str
    signature: Signature
    split: str | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.signature[0] if self.signature else 0


class Jobs(NamedTuple):
    """Shards to be tokenised, by their keys in the cache, and how."""

    shards: Mapping[str, Shard]
    options: ShardOptions
    tokenizer: Tokenizer
    kind: str


def prepare_shard(shard: Shard, key: str, options: ShardOptions, tokenizer: Tokenizer, *, kind: str) -> None:
    """Tokenise one shard into the cache. Raises UserError if its file is not what was hashed."""

    def fill(folder: Path) -> dict[str, Any]:
        source = options.source(shard)
        summary = fill_shard(source, folder, validation=options.validation, tokenizer=tokenizer)
        if signature(shard.root / shard.name) != shard.signature:
            raise UserError(f"The data in {source.title} changed while it was being read: start again.")
        return summary

    cached_folder(key, fill, kind=kind, title=str(shard.root / shard.name))
