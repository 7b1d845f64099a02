"""Inpainting of images: the known pixels are kept to the last bit, the others are filled, and mistakes are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.images import ASSETS, images, untrained
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.image.family import ImageDiffusion
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.image.request import ImageRequest

PIXELS = (torch.arange(64, dtype=torch.uint8) * 4).view(8, 8)
HOLE = torch.zeros(8, 8, dtype=torch.bool)
HOLE[2:5, 3:7] = True
PROCESSES = {
    "vp": NoiseProcess(timesteps=100),
    "zero SNR": NoiseProcess(timesteps=100, zero_terminal_snr=True),
    "eps": NoiseProcess(timesteps=100, prediction="eps"),
    "x0": NoiseProcess(timesteps=100, prediction="x0"),
    "flow": NoiseProcess(schedule="flow", prediction="flow"),
    "edm": NoiseProcess(schedule="edm", prediction="edm"),
}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return {"inpaint": written(tmp_path / "x.png", PIXELS), "mask": written(tmp_path / "mask.png", HOLE.byte() * 255)}


def written(path: Path, pixels_SS: Tensor) -> Path:
    Image.fromarray(pixels_SS.numpy()).save(path)
    return path


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_known_pixels_are_kept_and_the_others_are_filled(process: NoiseProcess, given: dict[str, Any]) -> None:
    family = ImageDiffusion(process=process).build(ASSETS)
    network = untrained(family)
    for options in ({}, {"sampler": "ddpm"}, {"sampler": "heun"}, {"label": ("b",), "guidance": 2.0}):
        found = images(family, network, **given, **options, resample=2)[:, 0]
        assert torch.equal(found[:, ~HOLE], PIXELS[~HOLE].expand(5, -1))
        assert len({tuple(each.tolist()) for each in found[:, HOLE]}) == 5, "each is filled by its own random numbers"


def test_every_value_of_a_pixel_is_kept(family: Family, network: nn.Module, tmp_path: Path) -> None:
    for first in range(0, 256, 63):
        pixels = (torch.arange(64) + first).clamp(max=255).byte().view(8, 8)
        given = {"inpaint": written(tmp_path / "x.png", pixels), "mask": written(tmp_path / "m.png", HOLE.byte() * 255)}
        found = images(family, network, num=1, steps=2, **given)[0, 0]
        assert torch.equal(found[~HOLE], pixels[~HOLE])


def test_passes_and_the_known_pixels_change_what_is_filled(
    given: dict[str, Any], family: Family, network: nn.Module, tmp_path: Path
) -> None:
    found = images(family, network, **given, resample=3)
    assert torch.equal(found, images(family, network, **given, resample=3))
    assert not torch.equal(found, images(family, network, **given, resample=1))
    assert torch.equal(images(family, network, **given), images(family, network, **given, resample=10))
    other = {**given, "inpaint": written(tmp_path / "y.png", 255 - PIXELS)}
    assert not torch.equal(found[..., HOLE], images(family, network, **other, resample=3)[..., HOLE])
    parts = images(family, network, **given, resample=3, batch=2)
    assert (found.int() - parts.int()).abs().max() <= 1


def test_a_larger_image_and_its_mask_are_cropped_and_resized_together(tmp_path: Path) -> None:
    pixels, mask = np.zeros((20, 32), np.uint8), np.zeros((20, 32), np.uint8)
    mask[:, :6] = 255  # outside of the centre square
    mask[9, 6:16] = 127  # grey is kept
    mask[0, 16] = 255
    request = ImageRequest(
        inpaint=written(tmp_path / "x.png", torch.from_numpy(pixels)),
        mask=written(tmp_path / "m.png", torch.from_numpy(mask)),
    )
    known = request.known(ASSETS)
    assert known is not None
    assert known.unknown.nonzero().tolist() == [[0, 4]], "a pixel of which any part is white is filled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": None}, "needs a mask"),
        ({"inpaint": None}, "mask .* has no effect without inpaint"),
        ({"inpaint": None, "mask": None, "resample": 2}, "resample .* has no effect without inpaint"),
        ({"image": Path("y.png")}, "use one of them"),
        ({"sampler": "dpm++2m"}, r"the sampler dpm\+\+2m builds on the step before: use ddim"),
        ({"resample": 0}, "at least 1"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageRequest(**{**given, **options})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(8, 8), "Nothing would be filled: the mask .* has no white pixels"),
        (torch.full((8, 8), 255), "Nothing would be kept: the mask .* has no black pixels"),
        (torch.zeros(9, 8), "has 8 × 9 pixels and .* has 8 × 8: they must be equally large"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(given: dict[str, Any], mask: Tensor, message: str, tmp_path: Path) -> None:
    request = ImageRequest(inpaint=given["inpaint"], mask=written(tmp_path / "other.png", mask.byte()))
    with pytest.raises(UserError, match=message):
        request.known(ASSETS)


def test_files_that_are_no_images_are_named(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"nothing.png cannot be read as an image: there is no such file"):
        ImageRequest(inpaint=given["inpaint"], mask=tmp_path / "nothing.png").known(ASSETS)
    with pytest.raises(UserError, match=r"notes.txt cannot be read as an image: not a picture"):
        ImageRequest(inpaint=tmp_path / "notes.txt", mask=given["mask"]).known(ASSETS)
