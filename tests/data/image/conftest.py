"""A small folder of images in two classes."""

from pathlib import Path

import pytest
from tests.helpers.image_data import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of one class and four of another."""
    for number in range(16):
        write_image(tmp_path / "in" / ("cat" if number % 4 else "dog") / f"{number:02}.png", seed=number)
    return tmp_path / "in"
