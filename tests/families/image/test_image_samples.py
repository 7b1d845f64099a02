"""Files of generated images: grids, strips, animations, single images, and their scale."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tests.helpers.images import samples
from torch import nn

from seedfast.families.family import Family
from seedfast.families.image.samples import ImageSamples, image_grid, to_uint8


def test_files_hold_the_generated_images(family: Family, network: nn.Module, tmp_path: Path) -> None:
    found = samples(family, network, num=11, steps=6, strip=4, gif=True, label=("a", "b"), batch=3)
    files = found.save(tmp_path)
    names = [file.name for file in files]
    assert names[:5] == ["grid.png", "grid.txt", "strip.png", "denoising.gif", "sample_0000_a.png"]
    assert len(files) == 4 + 11
    assert files[1].read_text() == "4 × a\n2 × a, 2 × b\n3 × b\n", "the classes in each row of the grid"
    for number, image in enumerate(found.images_NCSS):
        stored = torch.from_numpy(np.array(Image.open(files[4 + number])))
        assert torch.equal(stored, image[0])
    strip = Image.open(tmp_path / "strip.png")
    assert strip.size == (4 * 9 + 1, 8 * 9 + 1), "four frames of the first eight images"
    assert Image.open(tmp_path / "denoising.gif").n_frames == 4
    assert found.frames_FNCSS is not None
    assert torch.equal(found.frames_FNCSS[-1], found.images_NCSS[:8]), "the last frame is the image"


def test_a_grid_alone_has_the_requested_columns(family: Family, network: nn.Module, tmp_path: Path) -> None:
    request = {"num": 5, "steps": 2, "label": ("none",), "individual": False, "columns": 4}
    (grid,) = samples(family, network, **request).save(tmp_path)
    assert Image.open(grid).size == (4 * 9 + 1, 2 * 9 + 1)


def test_a_grid_has_every_image_in_its_place() -> None:
    sheet = image_grid(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2), columns=3)
    assert sheet.shape == (1, 7, 10)
    assert sheet[0, 1::3, 1::3].tolist() == [[0, 1, 2], [3, 4, 64]]


def test_pixels_are_scaled_by_a_fixed_rule() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1.0, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 64, 128, 255, 255]
    dim = torch.full((1, 1, 8, 8), -0.9)
    assert to_uint8(dim).max() == 13, "a dim image stays dim"


def test_a_dim_image_is_saved_dim(tmp_path: Path) -> None:
    dim = ImageSamples(
        images_NCSS=torch.arange(20, 84, dtype=torch.uint8).view(1, 1, 8, 8), names=(None,), frames_FNCSS=None,
        strip=False, gif=False, individual=True, columns=None,
    )  # fmt: skip
    _, picture = dim.save(tmp_path)
    values = np.asarray(Image.open(picture))
    assert (values.min(), values.max()) == (20, 83), "not stretched to 0 … 255"
