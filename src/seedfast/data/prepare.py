"""Preparing data: the steps that text, images and captions share.

A source lists its files. `prepare` hashes them, looks for data prepared from the same content with the same options in
the cache, or has the data prepared, and reports what could not be used.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seedfast.console import abbreviate, say
from seedfast.data.cache import cached_folder
from seedfast.data.fingerprint import Signature, hash_files, signature
from seedfast.errors import UserError
from seedfast.files import to_json

SPLITS = ("train", "validation")


def is_run_folder(folder: Path) -> bool:
    """Whether a folder inside the data is a run's, whose samples and reports are no data."""
    return (folder / "run.yaml").is_file() and (folder / "journal.jsonl").is_file()


@dataclass(frozen=True)
class SourceFiles:
    """The files root/name, for each of the names, that a data source reads, in a fixed order.

    title: the source's name in messages. skipped: what was left out while the files were listed, each with the reason.
    """

    title: str
    root: Path
    names: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=(), kw_only=True)

    def signatures(self) -> dict[str, Signature]:
        """The present signature of each file (size, times, inode)."""
        return {name: signature(self.root / name) for name in self.names}

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of each file by name, computed on first use."""
        return hash_files(self.root, self.signatures_when_hashed)

    @cached_property
    def signatures_when_hashed(self) -> dict[str, Signature]:
        """The signature that each file had when `contents` was computed."""
        return self.signatures()

    def check_unchanged(self) -> None:
        """Raise UserError if a file has changed since `contents` was computed."""
        if self.signatures() != self.signatures_when_hashed:
            raise UserError(f"The data in {self.title} changed while it was being read: start again.")


@dataclass(frozen=True)
class Prepared:
    """Prepared data in the cache.

    summary: what `fill` returned. identity: the source's content and the options, of which the cache key is the hash.
    notices: what is to be said about the data.
    """

    folder: Path
    summary: dict[str, Any]
    identity: dict[str, Any]
    notices: tuple[str, ...]

    def report(self) -> None:
        """Print the notices on stderr."""
        for notice in self.notices:
            say(notice)


def prepare(
    source: SourceFiles,
    options: Mapping[str, Any],
    fill: Callable[[Path], dict[str, Any]],
    *,
    kind: str,
    unreported: str | None = None,
) -> Prepared:
    """Take the prepared data from the cache, or have `fill` write it into a new folder.

    options: everything besides the files that shapes the prepared data, as JSON. fill: returns a summary with the list
    "skipped", what could not be used, each with the reason, and may have "notes", sentences about the data; both are
    notices for the caller to `report`, except reasons `unreported`. kind: the sub-folder of the cache. Raises UserError
    if the files change meanwhile.
    """
    identity = {**options, "contents": source.contents, "skipped": source.skipped}

    def fill_and_check(folder: Path) -> dict[str, Any]:
        summary = fill(folder)
        source.check_unchanged()
        return summary

    folder, summary = cached_folder(json_digest(identity)[:32], fill_and_check, kind=kind, title=source.title)
    skipped = [name for name in summary["skipped"] if unreported is None or not name.endswith(f"({unreported})")]
    left_out = [f"Left out of {source.title}: {abbreviate(skipped)}."] if skipped else []
    return Prepared(folder, summary, identity, (*left_out, *summary.get("notes", ())))


def json_digest(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()
