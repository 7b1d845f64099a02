"""Every test has its own cache and no network."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.helpers.text_data import Writer


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SEEDFAST_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write files into a folder, and return it."""

    def writer(files: Mapping[str, str | bytes]) -> Path:
        for name, content in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "data"

    return writer


@pytest.fixture
def documents() -> dict[str, str]:
    """Forty documents of different lengths, not all ASCII."""
    return {f"part{n % 3}/doc{n:02}.txt": f"Document {n}: naïve café €{n} 🌱\r\n" * (n + 1) for n in range(40)}
