"""What a run leaves behind, to compare runs with and without listeners."""

import json
from pathlib import Path
from typing import Any

from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.run_folder.train_state import digest, read_tensors


def outcome(folder: Path) -> tuple[str, list[Any]]:
    """The digest of the last checkpoint's tensors, and the journal without times."""
    lines = [{key: value for key, value in entry.items() if key != "time"} for entry in journal.read(folder)]
    return digest(read_tensors(find(folder, at="newest").folder)), lines


def warnings_of(folder: Path) -> list[str]:
    """The warnings among the events of a run."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line["reason"] for line in lines if line["event"] == "warning"]
