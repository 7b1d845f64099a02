"""Interpolation between seeds and between classes: the ends are the plain samples, and the way lies between them."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.images import ASSETS, samples
from tests.helpers.quick import slow_but
from torch import Tensor, nn

from seedfast import keys
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.interpolation import mixed_labels, slerp
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.keys import Draws
from seedfast.models.config import ImageModel
from seedfast.models.diffusers_unet import DiffusersUNet
from seedfast.models.dit import DiT
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet


def of_seed(family: Family, network: nn.Module, seed: int, **options: Any) -> ImageSamples:
    """Samples as `seedfast sample --seed` draws them."""
    assert family.generator is not None
    request = ImageRequest(**{"num": 3, "steps": 4, **options})
    draws = Draws(seed=seed, scope="sample", positions_B=torch.arange(3), group=3)
    found = family.generator.generate(network, request, draws, {})
    assert isinstance(found, ImageSamples)
    return found


def rows(found: ImageSamples, frames: int) -> Tensor:
    """[N, F, C, S, S]."""
    return found.images_NCSS.unflatten(0, (3, frames))


SAMPLERS: list[dict[str, Any]] = [
    {},
    {"sampler": "ddim", "eta": 1.0},
    {"sampler": "ddpm"},
    {"sampler": "dpm++2m"},
    {"batch": 2},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_the_ends_between_seeds_are_the_samples_of_both(
    options: dict[str, Any], family: Family, network: nn.Module
) -> None:
    way = rows(of_seed(family, network, 1, to_seed=7, frames=5, **options), 5)
    first, last = (of_seed(family, network, seed, **options).images_NCSS for seed in (1, 7))
    assert torch.equal(way[:, 0], first)
    assert torch.equal(way[:, -1], last)
    assert all(not torch.equal(way[:, i], way[:, i + 1]) for i in range(4))


def test_the_ends_from_an_image_and_of_an_inpainting_are_samples_too(
    family: Family, network: nn.Module, tmp_path: Path
) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "x.png")
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (2, 2, 6, 6))
    mask.save(tmp_path / "mask.png")
    inpaint = {"inpaint": tmp_path / "x.png", "mask": tmp_path / "mask.png", "resample": 2}
    for options in ({"image": tmp_path / "x.png"}, inpaint):
        way = rows(of_seed(family, network, 1, to_seed=2, frames=3, **options), 3)
        for place, seed in ((0, 1), (-1, 2)):
            assert torch.equal(way[:, place], of_seed(family, network, seed, **options).images_NCSS)


MODELS: dict[str, ImageModel] = {
    "unet": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4),
    "dit": DiT(patch=2, body=Transformer(positions="learned", width=16, heads=2, layers=1)),
    "diffusers": DiffusersUNet(widths=(8, 16), blocks=1, attention=(False, True), head_size=4, groups=4),
}


@pytest.mark.parametrize(
    ("guidance", "named"), slow_but([(3.0, "unet"), (1.0, "dit"), (3.0, "diffusers")], product((1.0, 3.0), MODELS))
)
def test_the_ends_between_classes_are_the_samples_of_both(guidance: float, named: str, family: Family) -> None:
    model = MODELS[named]
    if isinstance(model, DiffusersUNet):
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = family.objective.network(model)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    network.eval()
    options = {"guidance": guidance}
    found = of_seed(family, network, 1, label=("a", "b"), to_label="c", frames=4, **options)
    way = rows(found, 4)
    assert torch.equal(way[:, 0], of_seed(family, network, 1, label=("a", "b"), **options).images_NCSS)
    assert torch.equal(way[:, -1], of_seed(family, network, 1, label=("c",), **options).images_NCSS)
    assert all(not torch.equal(way[:, i], way[:, i + 1]) for i in range(3))
    assert found.names == ("a", "a→c", "a→c", "c", "a", "a→c", "a→c", "c", "b", "b→c", "b→c", "c")
    after = of_seed(family, network, 1, label=("a", "b"), **options).images_NCSS
    assert torch.equal(after, way[:, 0]), "the network is as before"


def test_from_any_class_and_along_both_ways_at_once(family: Family, network: nn.Module) -> None:
    way = rows(of_seed(family, network, 1, to_label="b", to_seed=2, frames=3), 3)
    assert torch.equal(way[:, 0], of_seed(family, network, 1).images_NCSS)
    assert torch.equal(way[:, -1], of_seed(family, network, 2, label=("b",)).images_NCSS)


def test_the_way_of_an_embedding_is_straight() -> None:
    embedding = nn.Embedding(4, 3)
    with torch.no_grad(), mixed_labels(embedding, torch.tensor([2, 2, 2, 3]), 0.25):
        mixed = embedding(torch.tensor([0, 2, 3]))
    e = embedding.weight
    assert torch.allclose(mixed, torch.stack([0.75 * e[0] + 0.25 * e[2], e[2], e[3]]))


def test_the_way_of_noise_is_an_arc_of_equal_steps() -> None:
    a, b = (keys.normal(seed, torch.arange(4), 3, 20, 20) for seed in (1, 2))
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    way = [slerp(a, b, i / 4).flatten(1).double() for i in range(5)]
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    norms, chords = (
        torch.stack([x.norm(dim=1) for x in way]),
        torch.stack([(y - x).norm(dim=1) for x, y in pairwise(way)]),
    )
    assert torch.allclose(norms, norms[:1].expand(5, 4), rtol=1e-5)
    assert torch.allclose(chords, chords[:1].expand(4, 4), rtol=1e-4)
    assert not torch.allclose(torch.lerp(way[0], way[-1], 0.5).norm(dim=1), norms[0], rtol=0.2), "a mean is shorter"


def test_the_files_are_a_row_for_each_image_and_an_animation(
    family: Family, network: nn.Module, tmp_path: Path
) -> None:
    files = samples(family, network, num=2, label=("none",), to_seed=5, frames=4, gif=True).save(tmp_path)
    assert [file.name for file in files] == ["grid.png", "interpolation.gif", *(f"sample_{i:04}.png" for i in range(8))]
    assert Image.open(files[0]).size == (4 * 9 + 1, 2 * 9 + 1)
    assert Image.open(files[1]).n_frames == 4
    assert len(samples(family, network, num=2, to_seed=5).names) == 16, "eight frames, unless others are asked for"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4}, "frames .* has no effect without to_seed or to_label"),
        ({"to_seed": 2, "frames": 1}, "at least 2"),
        ({"to_seed": 2, "strip": 4}, "strip shows the way from noise"),
        ({"to_seed": 1}, r"to_seed \(1\) is the seed of the images themselves"),
        ({"to_label": "z"}, 'no class "z"'),
        ({"to_label": "a", "label": ("a",)}, "to_label a is the label of every image"),
        ({"to_label": "a", "label": ("none", "b"), "guidance": 2.0}, "needs a class to begin with"),
    ],
    ids=str,
)
def test_a_way_that_leads_nowhere_is_refused(
    options: dict[str, Any], message: str, family: Family, network: nn.Module
) -> None:
    with pytest.raises(UserError, match=message):
        samples(family, network, **options)


def test_a_model_without_classes_has_no_way_between_them(network: nn.Module) -> None:
    family = ImageDiffusion(process=NoiseProcess(timesteps=100), conditional=False).build(ASSETS)
    with pytest.raises(UserError, match="trained without classes: leave out --label"):
        samples(family, network, to_label="a")
