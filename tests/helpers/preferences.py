"""Small data of preferences."""

import json
from pathlib import Path
from typing import Any


def pairs(count: int = 60) -> list[dict[str, Any]]:
    """Prompts with two answers of different lengths."""
    return [
        {"prompt": f"the cat {i} ", "chosen": "sees a dog " * (1 + i % 3), "rejected": "eats fish " * (1 + i % 2)}
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """The rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in (pairs() if rows is None else rows)))
    return path
