"""Data in many files, prepared file by file: in bounded memory, by several processes, each shard once for all.

A shard is a file. It is tokenised into a sealed folder of its own in the cache, so a preparation that is killed goes on
with the shards that are missing, and a file that is added, removed or changed costs that file alone. Nothing is held
for all documents: which of them validate is a function of each document alone, and an example is found by its number
among the numbers of examples of the shards.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedfast.console import Bar, say
from seedfast.data.cache import cache_folder
from seedfast.data.fingerprint import hash_files, signature
from seedfast.data.prepare import json_digest
from seedfast.data.text import tokenizers
from seedfast.data.text.bpe import BUDGET
from seedfast.data.text.dialogues import ChatSource
from seedfast.data.text.joined import JoinedSource
from seedfast.data.text.preferences import PreferenceSource
from seedfast.data.text.shard import Jobs, Shard, ShardOptions, prepare_shard
from seedfast.data.text.shard_workers import prepare_in_parallel
from seedfast.data.text.sources import TextFileSource, TextSource
from seedfast.data.text.split import training_passages
from seedfast.data.text.tokenize import learning_texts
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.files import locked_file
from seedfast.sealed_folder import Manifest

_FORMAT = 1  # version of a prepared shard: increase it when the same file is prepared differently
MANY, LARGE = 100, 1 << 20
"""From this number of files of rows on, of this mean size in bytes, a new run prepares them as shards by itself."""
_IN_PROCESS = 64 << 20  # bytes: less is tokenised sooner than another process has started


@dataclass(frozen=True)
class PreparedShards:
    """The folders of all shards, in their order, and what `fill_shard` returned for each."""

    folders: Sequence[Path]
    summaries: Sequence[dict[str, Any]]


def file_sources(source: TextSource) -> list[TextFileSource] | None:
    """The files of a source; None if it is one text or consists of anything but files."""
    if isinstance(source, PreferenceSource) or source.is_one_text:
        return None
    if isinstance(source, ChatSource):
        return file_sources(source.source)
    if isinstance(source, JoinedSource):
        parts = [file_sources(each) for each in source.sources]
        return None if None in parts else [file for part in parts for file in part or ()]
    return [source] if isinstance(source, TextFileSource) else None


def is_large(source: TextSource) -> bool:
    """Whether a new run prepares a source as shards by itself."""
    sizes = [(each.root / name).stat().st_size for each in file_sources(source) or () for name in each.row_files]
    return len(sizes) >= MANY and sum(sizes) >= LARGE * len(sizes)


def shards_of(source: TextSource) -> list[Shard]:
    """The shards of a source. Raises UserError for one that has none."""
    if (files := file_sources(source)) is None:
        raise UserError(
            f"data.by_shard prepares each file by itself, and {source.title} is not made of files of documents or "
            "chats: leave it out."
        )
    return [
        Shard(
            each.root,
            name,
            name in each.row_files,
            each.contents[name],
            each.signatures_when_hashed[name],
            each.splits.get(name),
        )
        for each in files
        for name in each.names
    ]


def sample_texts(shards: Sequence[Shard], options: ShardOptions) -> Iterator[str]:
    """The training documents at the beginning of each shard, from which a tokenizer is learned."""
    for shard in shards:
        source = options.source(shard)
        taken = 0
        for text in learning_texts(training_passages(source, options.validation, not options.is_chats)):
            yield text
            taken += len(text)
            if taken * len(shards) >= BUDGET:
                break


def prepare_shards(
    shards: Sequence[Shard], options: ShardOptions, tokenizer: Tokenizer, *, title: str
) -> PreparedShards:
    """Take each shard from the cache, or tokenise it. Raises UserError on unusable data, or if a file changes."""
    common = {**vars(options), "format": _FORMAT, "tokenizer": tokenizers.digest(tokenizer)}
    keys = [
        json_digest({**common, "contents": shard.contents, "rows": shard.is_rows, "split": shard.split})[:32]
        for shard in shards
    ]
    kind = f"shards/{Path(title).name[:40].replace(' ', '-')}-{json_digest({**common, 'title': title})[:12]}"
    group = cache_folder() / kind
    group.mkdir(parents=True, exist_ok=True)
    with locked_file(group.with_name(f"{group.name}.lock")):
        missing = _missing(shards, keys, group)
        if missing:
            _tokenise(missing, options, tokenizer, kind=kind)
        os.utime(group)  # when it was used
    folders = [group / key for key in keys]
    return PreparedShards(folders, [Manifest.read(folder).entries["facts"] for folder in folders])


def _missing(shards: Sequence[Shard], keys: Sequence[str], group: Path) -> dict[str, Shard]:
    """The shards without a whole folder, by their keys. What is damaged is removed.

    A folder is hashed again only if its files are not as they were when that was done last.
    """
    manifests = {key: manifest for key in dict.fromkeys(keys) if (manifest := _manifest(group / key))}
    signatures = {
        f"{key}/{name}": signature(group / key / name) for key, found in manifests.items() for name in found.files
    }
    hashes = hash_files(group, signatures)
    whole = {
        key
        for key, manifest in manifests.items()
        if all(hashes[f"{key}/{name}"] == known["sha256"] for name, known in manifest.files.items())
    }
    for key in {path.name for path in group.iterdir()} & (set(keys) - whole):
        say(f"The prepared data in {group / key} is damaged: it is prepared again.")
        shutil.rmtree(group / key)
    return {key: shard for key, shard in zip(keys, shards, strict=True) if key not in whole}


def _manifest(folder: Path) -> Manifest | None:
    try:
        return Manifest.read(folder)
    except (OSError, ValueError):
        return None


def _tokenise(missing: dict[str, Shard], options: ShardOptions, tokenizer: Tokenizer, *, kind: str) -> None:
    """Prepare these shards, in several processes if there is work for them."""
    total = sum(shard.size for shard in missing.values())
    processes = min(_cores(), len(missing), 1 + total // _IN_PROCESS)
    with Bar("Tokenising", total) as bar:
        if processes > 1:
            jobs = Jobs(missing, options, tokenizer, kind)
            prepare_in_parallel(jobs, processes, finished=lambda key: bar.advance(missing[key].size))
            return
        for key, shard in missing.items():
            prepare_shard(shard, key, options, tokenizer, kind=kind)
            bar.advance(shard.size)


def _cores() -> int:
    """The processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
