"""The command line in this process, as a user types it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedfast.cli import main

Run = Callable[..., tuple[int, str, str]]
"""The fixture `seedfast`: runs a command and returns its exit status, stdout and stderr."""


def seedfast(*words: str | Path) -> int:
    """Run a command; returns its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)
