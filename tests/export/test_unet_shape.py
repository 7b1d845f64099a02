"""seedfast's U-Net as diffusers' UNet2DModel: equal outputs, and a pipeline with equal samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.test_diffusers_pipeline import START, STEPS, exported, ours
from tests.helpers.runs import small_run, train_in

from seedfast import api, cli
from seedfast.errors import UserError
from seedfast.export.unet_shape import as_unet2d
from seedfast.families.image.family import ImageDiffusion
from seedfast.models.unet import UNet, UNetNetwork

pytest.importorskip("diffusers")

SHAPES = {
    "attention below": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4),
    "no attention": UNet(width=8, multipliers=(1, 2, 3), blocks=2, attention=(False, False, False), groups=4),
    "attention everywhere": UNet(width=8, multipliers=(1, 1), blocks=2, attention=(True, True), heads=2, groups=4),
    "folded pixels": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4, patch=2),
}


def scrambled(config: UNet, **sizes: int) -> UNetNetwork:
    """A network with random weights, none of them zero."""
    network = config.build(**{"size": 8, "channels": 3, "classes": 2, **sizes})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_model_of_diffusers_has_the_outputs_of_the_network(name: str) -> None:
    network, patch = scrambled(SHAPES[name]), SHAPES[name].patch
    unet = as_unet2d(network, size=8, channels=3)
    x, steps = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3, 500, 999])
    labels = torch.tensor([0, 1, 2, 1])
    folded = torch.nn.functional.pixel_unshuffle(x, patch)
    theirs = torch.nn.functional.pixel_shuffle(unet(folded, steps, class_labels=labels).sample, patch)
    expected = network(x, steps / 1000, labels)
    torch.testing.assert_close(theirs, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05
    assert not torch.allclose(unet(folded, steps + 200, class_labels=labels).sample, theirs.view_as(folded), atol=1e-2)


def test_levels_of_different_head_sizes_are_refused() -> None:
    network = scrambled(UNet(width=8, multipliers=(1, 2), blocks=1, attention=(True, True), heads=2, groups=4))
    with pytest.raises(UserError, match=r"the sizes 4, 8"):
        as_unet2d(network, size=8, channels=3)


@pytest.mark.parametrize("conditional", [True, False])
def test_an_exported_u_net_has_the_samples_of_its_run(conditional: bool, story: Path, tmp_path: Path) -> None:
    model = SHAPES["folded pixels"]
    objective = ImageDiffusion(conditional=conditional, evaluation_draws=1)
    train_in(tmp_path / "run", replace(small_run("image-diffusion", story), steps=4, model=model, objective=objective))
    pipeline = exported(tmp_path / "run", tmp_path / "pipeline", trust_remote_code=True)
    run = api.load(tmp_path / "run", device="cpu")
    noise = START.normal("start", 1, 8, 8)
    options: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "pt", "latents": noise}
    names = ["few", "few", "many", "many"]
    found = pipeline(names, **options) if conditional else pipeline(batch_size=4, **options)
    labels = {"label": ("few", "many")} if conditional else {}
    assert torch.allclose(found.images, ours(run, **labels), atol=1e-4)
    if not conditional:
        with pytest.raises(ValueError, match="has no classes"):
            pipeline(["few"])
    bare = api.load(tmp_path / "pipeline", device="cpu")
    one, other = (each.sample(num=2, steps=5) for each in (run, bare))
    assert torch.equal(one.images_NCSS, other.images_NCSS) or (  # type: ignore[attr-defined]
        (one.images_NCSS.int() - other.images_NCSS.int()).abs().max() <= 1  # type: ignore[attr-defined]
    )
    folder = story.with_suffix(".images")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", str(tmp_path / "pipeline"), "--only", "loss", "--data", str(folder), "--device", "cpu"])
