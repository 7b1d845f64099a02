"""A hub of this test's own, and background processes at normal priority."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.helpers.hub_server import Behaviour, Hub, Serve, serving

from seedfast.listeners import background


@pytest.fixture(autouse=True)
def _normal_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "NICE", 0)  # on a busy machine the processes would starve


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Starts a hub that every process of this test uses."""
    with ExitStack() as stack:

        def start(behaviour: Behaviour) -> Hub:
            hub = stack.enter_context(serving(behaviour))
            for name, value in {
                "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "hf"),
            }.items():  # fmt: skip
                monkeypatch.setenv(name, value)
            return hub

        yield start
