"""`seedfast cache`."""

import time
from collections import Counter
from dataclasses import dataclass

from seedfast.cli.arguments import parse
from seedfast.errors import UserError

_DAY = 86_400.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Cache:
    """List prepared data in the cache, or remove it with --clear. What is removed is prepared again when it is needed.

    The kinds: text, shards (all of a source together), images, captions and features are prepared data; tokenizers are
    those that several sources share; hashes are SHA-256 of the files of a source; kernels are compiled code of
    networks; unfinished is what killed processes left behind. The cache is ~/.cache/seedfast, or $SEEDFAST_CACHE.
    """

    clear: bool = False
    """Remove the entries instead of listing them."""
    kind: tuple[str, ...] = ()
    """Only entries of these kinds (default: all)."""
    unused_days: float = 0.0
    """Only entries that have not been used for this number of days."""


def cache(words: list[str]) -> int:
    """List or clear the cache; see `Cache` for the flags."""
    asked = parse(Cache, words, prog="seedfast cache")
    from seedfast.console import put
    from seedfast.data.cache import cache_folder, clear, entries
    from seedfast.report.format import age, size

    everything, now = entries(), time.time()
    kinds = sorted({entry.kind for entry in everything})
    if unknown := sorted(set(asked.kind) - set(kinds)):
        held = f"it holds {', '.join(kinds)}" if kinds else "it is empty"
        raise UserError(f"The cache {cache_folder()} has no entries of the kind {', '.join(unknown)}; {held}.")
    chosen = [
        entry
        for entry in everything
        if (not asked.kind or entry.kind in asked.kind) and now - entry.used >= asked.unused_days * _DAY
    ]
    if asked.clear:
        removed = [entry for entry in chosen if clear(entry)]
        put(f"removed {len(removed)} entries, {size(sum(entry.size for entry in removed))}")
        if busy := len(chosen) - len(removed):
            put(f"{busy} entries stay: other processes are preparing them")
        return 0
    for entry in chosen:
        name = entry.title or entry.path.stem[:16]
        put(f"{entry.kind:<10} {size(entry.size):>9}  {age(now - entry.used):>9}  {name}")
    total = Counter(entry.kind for entry in chosen)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(total.items())) or "nothing"
    put(f"{cache_folder()} holds {counts}: {size(sum(entry.size for entry in chosen))}")
    return 0
