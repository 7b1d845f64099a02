"""The network of the Fréchet inception distance: its layout, its resizing, and weights that are not its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.cli import seedfast
from tests.helpers.runs import small_run, train_in, write_images
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast import keys
from seedfast.errors import UserError
from seedfast.evaluate.fidelity import compare
from seedfast.evaluate.image_features import inception
from seedfast.models.inception import SIZE, Convolution, Inception, Mixed7, preprocessed, resized

IMAGES = keys.bits(1, torch.arange(4), 1, 8, 8).remainder(256).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the published names, as torch.save writes them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inception()
        for part in network.modules():
            if isinstance(part, nn.Conv2d):  # so that the activations neither vanish nor grow
                nn.init.normal_(part.weight, std=(2 / part.weight[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_layout_is_the_published_one() -> None:
    with torch.device("meta"):
        network = Inception()
    shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    # 27,161,264 of Inception-v3 with 1,000 classes, less its auxiliary classifier, plus 8 classes.
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 + 1) * 1000
    assert sum(each.numel() for each in network.parameters()) == 27_161_264 - auxiliary + 8 * 2049 == 23_850_960
    assert sum(isinstance(part, Convolution) for part in network.modules()) == 94
    assert {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7_3.conv.weight": (192, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_2.conv.weight": (192, 192, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3dbl_1.conv.weight": (448, 1280, 1, 1),
        "Mixed_7c.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.bn.bias": (384,),
        "fc.weight": (1008, 2048),
    }.items() <= shapes.items()


def test_every_stage_has_the_published_size() -> None:
    with torch.device("meta"):
        network, x = Inception().eval(), torch.zeros(1, 3, SIZE, SIZE)
    sizes: dict[str, tuple[int, ...]] = {}
    for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6a", "Mixed_6e", "Mixed_7a", "Mixed_7c"):
        network.get_submodule(name).register_forward_hook(
            lambda part, inputs, output, name=name: sizes.update({name: tuple(output.shape[1:3])})
        )
    assert network(x).shape == (1, 2048)
    assert sizes == {
        "Conv2d_2b_3x3": (64, 147), "Conv2d_4a_3x3": (192, 71), "Mixed_5d": (288, 35), "Mixed_6a": (768, 17),
        "Mixed_6e": (768, 17), "Mixed_7a": (1280, 8), "Mixed_7c": (2048, 8),
    }  # fmt: skip


def test_pooling_ignores_the_padding_and_only_the_last_block_takes_the_maximum() -> None:
    x = torch.ones(1, 8, 5, 5)
    x[0, :, 2, 2] = 10
    for maximum in (False, True):
        block = Mixed7(8, maximum=maximum).eval()
        nn.init.ones_(block.branch_pool.conv.weight)
        pooled = block(x)[0, -1] / 8 * (1 + 1e-3) ** 0.5
        middle, corner = (10, 1) if maximum else (2, 1)
        assert pooled[2, 2].item() == pytest.approx(middle, rel=1e-5)
        assert pooled[0, 0].item() == pytest.approx(corner, rel=1e-5), "no zeros of the padding"
    with torch.device("meta"):
        network = Inception()
    assert (network.Mixed_7b.maximum, network.Mixed_7c.maximum) == (False, True)


def test_images_are_resized_as_by_tensorflow_1() -> None:
    ramp = torch.arange(32.0)
    expected = (torch.arange(SIZE) * 32 / SIZE).clamp(max=31)
    assert torch.allclose(resized(ramp), expected, atol=1e-4), (
        "the left corners are aligned, and the right edge repeats"
    )
    by_centres = F.interpolate(ramp.view(1, 1, -1), size=SIZE, mode="linear", align_corners=False)[0, 0]
    assert not torch.allclose(by_centres, expected, atol=0.1)
    large = keys.normal(1, torch.arange(1), SIZE)
    assert torch.equal(resized(large), large)
    assert torch.equal(resized(torch.arange(2.0 * SIZE)), 2 * torch.arange(1.0 * SIZE)), "nothing is averaged"
    x = preprocessed(torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1))
    assert x.shape == (3, 3, SIZE, SIZE)
    assert x[:, 0, 0, 0].tolist() == [-1, 0, 127 / 128]


def test_weights_load_from_both_kinds_of_files(weights: Path, tmp_path: Path) -> None:
    features, name = inception(weights)
    images = IMAGES[:2]
    found = features(images)
    assert found.shape == (2, 2048)
    assert not torch.allclose(found[0], found[1])
    assert name.startswith("FID's Inception-v3, pool3 (pt_inception.pth, sha256 ")
    assert torch.equal(features(images.expand(2, 3, 8, 8)), found), "grey images are colour images"
    state = torch.load(weights, weights_only=True)
    network = Inception().eval()
    network.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(network(preprocessed(images)), found, atol=1e-5)
    old = {name: each for name, each in state.items() if not name.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "inception.safetensors")
    assert torch.equal(inception(tmp_path / "inception.safetensors")[0](images), found)


def test_the_distance_is_that_of_the_features(weights: Path) -> None:
    features, name = inception(weights)
    found = compare(IMAGES, [IMAGES], features=features, name=name, seeds=(1,))
    assert found.distance.values[0] == pytest.approx(0, abs=1e-6)
    assert (found.real, found.generated, found.features) == (4, 4, name)


def _changed(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    if kind == "missing":
        del state["Mixed_5b.branch1x1.conv.weight"]
    elif kind == "unknown":
        state["Mixed_8.conv.weight"] = torch.zeros(1)
    elif kind == "shape":
        state["Mixed_6b.branch7x7_2.conv.weight"] = state["Mixed_6b.branch7x7_2.conv.weight"].mT.contiguous()
    else:
        state["fc.weight"] = torch.zeros(1000, 2048)
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"it lacks Mixed_5b\.branch1x1\.conv\.weight"),
        ("unknown", r"it has the unknown Mixed_8\.conv\.weight"),
        ("shape", r"it has another shape for Mixed_6b\.branch7x7_2\.conv\.weight"),
        ("classifier", "classifies 1,000 classes, whose distances are not comparable"),
    ],
)
def test_other_weights_are_refused(kind: str, message: str, weights: Path, tmp_path: Path) -> None:
    torch.save(_changed(torch.load(weights, weights_only=True), kind), tmp_path / "other.pth")
    with pytest.raises(UserError, match=message):
        inception(tmp_path / "other.pth")


def test_files_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        inception(tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="could not be read"):
        inception(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="does not hold the tensors of a model"):
        inception(tmp_path / "list.pth")


def test_the_command_takes_the_path_of_the_weights(
    weights: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", story.read_bytes(), count=8)
    run = small_run("image-diffusion", story, steps=1)
    train_in(tmp_path / "run", replace(run, data=replace(run.data, path=str(tmp_path / "images"))))
    words = ["fidelity", str(tmp_path / "run"), "--num", "4", "--steps", "2", "--json", "--features"]
    assert seedfast(*words, f"inception:{weights}") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"].startswith("FID's Inception-v3, pool3 (pt_inception.pth")
    assert found["made"] == 4
    assert seedfast(*words, "inception:nothing.pth") == 2
    assert "There is no file nothing.pth" in capsys.readouterr().err
