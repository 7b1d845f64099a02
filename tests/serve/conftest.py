"""One small run of each family, and a server of some of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import tiny_models
from tests.helpers.runs import TEXTS, small_run, train_in
from tests.helpers.serving import Running, served


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, story: Path) -> dict[str, Path]:
    """A run of every family of text and of captions, and a chat model of transformers."""
    root = tmp_path_factory.mktemp("served")
    found = {recipe: root / recipe for recipe in (*TEXTS, "image-caption")}
    for recipe, folder in found.items():
        train_in(folder, small_run(recipe, story, steps=2))
    return found | {"chat": tiny_models.folder(root / "chat", text=story.read_text())}


@pytest.fixture(scope="session")
def causal(folders: dict[str, Path]) -> Iterator[Running]:
    with served(folders["text-autoregressive"]) as running:
        yield running


@pytest.fixture(scope="session")
def masked(folders: dict[str, Path]) -> Iterator[Running]:
    with served(folders["text-masked"]) as running:
        yield running


@pytest.fixture(scope="session")
def chat(folders: dict[str, Path]) -> Iterator[Running]:
    with served(folders["chat"]) as running:
        yield running


@pytest.fixture(scope="session")
def captions(folders: dict[str, Path]) -> Iterator[Running]:
    with served(folders["image-caption"]) as running:
        yield running
