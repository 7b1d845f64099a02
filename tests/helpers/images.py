"""A small image family with an untrained network."""

from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.image.dataset import ImageAssets
from seedfast.families.family import Family
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.keys import Draws
from seedfast.models.unet import UNet

ASSETS = ImageAssets(size=8, channels=1, classes=("a", "b", "c"), counts=(5, 3, 1))
MODEL = UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4)


def draws(count: int, scope: str = "sample") -> Draws:
    """The randomness of the first `count` examples."""
    return Draws(seed=1, scope=scope, positions_B=torch.arange(count))


def untrained(family: Family) -> nn.Module:
    """A network in evaluation mode whose every weight has an effect (some are initialised to zero)."""
    torch.manual_seed(0)
    network = family.objective.network(MODEL)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def samples(family: Family, network: nn.Module, **options: Any) -> ImageSamples:
    """Samples of a request; by default five images in four steps."""
    assert family.generator is not None
    request = ImageRequest(**{"num": 5, "steps": 4, **options})
    found = family.generator.generate(network, request, draws(request.count), {})
    assert isinstance(found, ImageSamples)
    return found


def images(family: Family, network: nn.Module, **options: Any) -> Tensor:
    """The images of `samples`, uint8 [N, C, S, S]."""
    return samples(family, network, **options).images_NCSS
