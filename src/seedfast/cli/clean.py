"""`seedfast clean`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from seedfast.cli.arguments import parse
from seedfast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Clean:
    """List what runs do not need, or remove it with --remove.

    A run needs its newest checkpoint and its best ones; with these it is continued, evaluated and sampled with the same
    results. The others, those that were set aside, and what killed processes left are not needed.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, or runs."""
    remove: bool = False
    """Remove it. A run that is being trained is left alone, and what another process uses stays."""


def clean(words: list[str]) -> int:
    """List or remove what runs do not need; see `Clean` for the flags. Exits with 1 if a run could not be cleaned."""
    asked = parse(Clean, words, prog="seedfast clean")
    from seedfast.console import put, tell
    from seedfast.report.format import size
    from seedfast.run_folder.cleaning import remove, unneeded
    from seedfast.run_folder.listing import runs_below

    total, refused = 0, 0
    for run in runs_below(asked.folders):
        try:
            found = unneeded(run.path)
            stay = remove(run.path, found) if asked.remove and found else []
        except UserError as error:
            tell(str(error))
            refused = 1
            continue
        for each in found:
            note = "  (stays: another process uses it)" if each in stay else ""
            put(f"{size(each.size):>9}  {each.path}  {each.reason}{note}")
        total += sum(each.size for each in found if each not in stay)
    put(f"{'removed' if asked.remove else 'not needed'}: {size(total)}")
    return refused
