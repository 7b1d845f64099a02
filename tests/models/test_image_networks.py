"""Image networks, that of diffusers among them: shapes, labels, sizes, gradients."""

import os

import pytest
import torch
from torch import Tensor, nn

from seedfast import keys
from seedfast.errors import UserError
from seedfast.models.config import ImageModel
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.models.dit import DiT
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet, Up

os.environ["HF_HUB_OFFLINE"] = "1"

CONFIGS: dict[str, ImageModel] = {
    "unet": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4),
    "unet of patches": UNet(width=8, multipliers=(1,), blocks=1, attention=(False,), heads=2, groups=4, patch=2),
    "transformer": DiT(
        patch=2, body=Transformer(layers=1, heads=2, width=16, positions="learned")
    ),
    "diffusers": DiffusersUNet(widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4),
}  # fmt: skip


def built(name: str, channels: int = 1, classes: int = 3) -> nn.Module:
    """A network whose every weight has an effect (some are initialised to zero)."""
    keys.seed_torch(1, "init")
    network = CONFIGS[name].build(size=8, channels=channels, classes=classes)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    x = keys.normal(1, torch.arange(5), channels, 8, 8)
    return x, torch.linspace(0.1, 0.9, 5), torch.tensor([0, 1, 2, 3, 0])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_gives_an_image(name: str, channels: int) -> None:
    x, time, label = inputs(channels)
    assert built(name, channels)(x, time, label).shape == x.shape


@pytest.mark.parametrize("name", CONFIGS)
def test_no_label_is_the_null_label(name: str) -> None:
    """A missing label of a conditional model is the null label: the label embedding is never left out."""
    network, (x, time, label) = built(name), inputs()
    null = torch.full_like(label, 3)
    assert torch.equal(network(x, time, None), network(x, time, null))
    assert not torch.allclose(network(x, time, label), network(x, time, null), atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_output_of_an_image_does_not_depend_on_the_others(name: str) -> None:
    network, (x, time, label) = built(name), inputs()
    whole = network(x, time, label)
    alone = torch.cat([network(x[i : i + 1], time[i : i + 1], label[i : i + 1]) for i in range(5)])
    assert torch.allclose(whole, alone, atol=1e-5)
    moved = network(x, time.flip(0), label)
    assert torch.allclose(moved[2], whole[2], atol=1e-5)
    assert not torch.allclose(moved[0], whole[0], atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_a_gradient(name: str) -> None:
    network, (x, time, label) = built(name).train(), inputs()
    (network(x, time, label) * keys.normal(2, torch.arange(5), 1, 8, 8)).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ["unet", "unet of patches", "transformer"])
def test_a_new_network_outputs_zero(name: str) -> None:
    x, time, label = inputs()
    assert not CONFIGS[name].build(size=8, channels=1, classes=3)(x, time, label).any()


def test_upsampling_is_nearest_neighbours() -> None:
    up = Up(2)
    x = keys.normal(1, torch.arange(3), 2, 4, 4)
    assert torch.equal(up(x, x), up.conv(nn.functional.interpolate(x, scale_factor=2, mode="nearest")))


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (UNet(), 30, "multiple of 4 .* not 30; the nearest that fit are 28 and 32"),
        (UNet(patch=2), 36, "multiple of 8 .* the nearest that fit are 32 and 40"),
        (UNet(), 2, "the nearest that fit are 4"),
        (DiT(patch=4), 30, "multiple of 4 .* the nearest that fit are 28 and 32"),
        (DiffusersUNet(), 30, "the nearest that fit are 28 and 32"),
    ],
    ids=str,
)
def test_sizes_that_do_not_divide_are_refused_with_the_nearest(config: ImageModel, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.build(size=size, channels=1, classes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": (True,)}, r"attention must have one value for each of the 3 levels of model.multipliers, not 1"),
        ({"multipliers": ()}, "model.multipliers must have a number for each level"),
        ({"multipliers": (1, 0, 2)}, "model.multipliers must be at least 1, not 0"),
        ({"groups": 5}, "must divide"),
        ({"heads": 3}, "must divide the channels"),
        ({"dropout": 1.0}, r"model.dropout must be in \[0, 1\), not 1.0"),
        ({"blocks": 0}, "model.blocks must be at least 1, not 0"),
        ({"width": 7, "groups": 7, "heads": 7}, "width must be even"),
        ({"width": 1, "groups": 1, "heads": 1}, "width must be even"),
    ],
    ids=str,
)
def test_invalid_shapes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNet(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"attention": (True,)}, {"groups": 5}, {"head_size": 7}, {"blocks": 0}], ids=str)
def test_invalid_shapes_of_diffusers_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"model\."):
        DiffusersUNet(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("multipliers", "attention"), [((2, 1, 3), (True, False, True)), ((2, 1), (False, False))], ids=str
)
def test_the_first_multiplier_need_not_be_one(multipliers: tuple[int, ...], attention: tuple[bool, ...]) -> None:
    config = UNet(width=8, multipliers=multipliers, blocks=1, attention=attention, heads=2, groups=4)
    assert config.build(size=8, channels=1, classes=1)(*inputs()[:2]).shape == (5, 1, 8, 8)


def test_the_narrowest_network_has_a_width_of_two() -> None:
    UNet(width=2, groups=2, heads=2).build(size=8, channels=1, classes=1)(torch.zeros(1, 1, 8, 8), torch.zeros(1))
