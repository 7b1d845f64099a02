"""A small family and an untrained network, for the tests of sampling and of files."""

import pytest
from tests.helpers.images import ASSETS, untrained
from torch import nn

from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess


@pytest.fixture(scope="session")
def family() -> Family:
    """Three classes, 100 timesteps."""
    return ImageDiffusion(process=NoiseProcess(timesteps=100)).build(ASSETS)


@pytest.fixture(scope="session")
def network(family: Family) -> nn.Module:
    """Weights that are random and not zero."""
    return untrained(family)
