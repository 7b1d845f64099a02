"""The image family beyond its identities: what it refuses, what it samples, and what it writes."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from seedfast.data.image.config import ImageAssets
from seedfast.errors import UserError
from seedfast.families.image.augment import Augment, augmented
from seedfast.families.image.family import ImageDiffusion, ImageFamily
from seedfast.families.image.noise_process import Process
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import picture_of, tiled
from seedfast.keys import Draws
from seedfast.models.unet import UNet

os.environ["HF_HUB_OFFLINE"] = "1"
ASSETS = ImageAssets(size=8, channels=1, classes=("a", "b", "c"), counts=(5, 3, 1))
MODEL = UNet(width=8, multipliers=(1, 2), blocks=1, attention=(False, True), heads=2, groups=4)


def draws(count: int, scope: str = "sample") -> Draws:
    return Draws(seed=1, scope=scope, positions_B=torch.arange(count))


@pytest.fixture(scope="module")
def family() -> ImageFamily:
    return ImageDiffusion(process=Process(times=100)).build(ASSETS)


@pytest.fixture(scope="module")
def network(family: ImageFamily) -> nn.Module:
    torch.manual_seed(0)
    network = family.network(MODEL)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def images(family: ImageFamily, network: nn.Module, **options: Any) -> Tensor:
    request = ImageRequest(**{"num": 5, "steps": 4, **options})
    return family.sample(network, request, draws(request.count), {}).images_NCSS


SAMPLERS: list[dict[str, Any]] = [
    {}, {"eta": 1.0}, {"sampler": "ddpm"}, {"sampler": "ddpm", "variance": "large"}, {"sampler": "dpm++2m"},
    {"sampler": "dpm++2s"}, {"sampler": "heun"}, {"sampler": "euler"}, {"label": ("b",)},
    {"label": ("b",), "guidance": 3.0}, {"threshold": "dynamic"}, {"threshold": "none"}, {"spacing": "leading"},
    {"spacing": "linspace"}, {"mix": True}, {"steps": 7},
]  # fmt: skip


def test_every_option_of_sampling_has_an_effect(family: ImageFamily, network: nn.Module) -> None:
    found = {str(options): images(family, network, **options) for options in SAMPLERS}
    same = [(a, b) for a in found for b in found if a < b and torch.equal(found[a], found[b])]
    equal = [("{'eta': 1.0}", "{'sampler': 'ddpm'}"), ("{'sampler': 'euler'}", "{}")]
    assert same == equal, "DDIM with η = 1 is DDPM, Euler is DDIM with η = 0, and nothing else is anything else"


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_batches_bound_the_memory_and_change_no_image(
    options: dict[str, Any], family: ImageFamily, network: nn.Module
) -> None:
    whole = images(family, network, **options)
    parts = images(family, network, **options, batch=2)
    assert (whole.int() - parts.int()).abs().max() <= 1
    fewer = images(family, network, **{**options, "num": 3}) if not options.get("mix") else whole[:3]
    assert (whole[:3].int() - fewer.int()).abs().max() <= 1


def test_churn_puts_noise_back_and_is_shared_out_among_the_steps(network: nn.Module) -> None:
    family = ImageDiffusion(process=Process(schedule="edm", prediction="edm")).build(ASSETS)
    plain = images(family, network, sampler="heun")
    assert torch.equal(images(family, network, sampler="heun", churn=0.0), plain)
    assert not torch.equal(images(family, network, sampler="heun", churn=1.0), plain)
    request = ImageRequest(sampler="heun", churn=2.0)
    assert request.raised(family.process, 50) == 0.04
    assert request.raised(family.process, 2) == np.sqrt(2) - 1, "never more than to double the variance"


def test_images_are_shared_out_among_labels_and_the_first_get_the_rest() -> None:
    labels = ImageRequest(num=5, label=("c", "a")).labels(ASSETS, conditional=True)
    assert labels == [2, 2, 2, 0, 0]
    mixed = ImageRequest(num=9, mix=True).labels(ASSETS, conditional=True)
    assert [mixed.count(k) for k in range(3)] == [5, 3, 1]
    assert ImageRequest(num=2).labels(ASSETS, conditional=True) == [3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num must be at least 1"),
        ({"columns": 0}, "columns must be at least 1"),
        ({"eta": 2.0}, "eta must lie"),
        ({"eta": 0.5, "sampler": "heun"}, "eta has no effect without --sampler ddim"),
        ({"variance": "large"}, "variance has no effect"),
        ({"percentile": 0.9}, "percentile has no effect"),
        ({"churn": 1.0}, "churn has no effect without --sampler heun"),
        ({"churn": -1.0, "sampler": "heun"}, "churn must be"),
        ({"percentile": 1.5, "threshold": "dynamic"}, "percentile must lie"),
        ({"noise": 0.5}, "noise has no effect without --image"),
        ({"guidance": 2.0}, "name one with --label"),
        ({"guidance": float("nan"), "label": ("a",)}, "guidance must be"),
        ({"strip": 1}, "at least 2 frames"),
        ({"label": ("a",), "mix": True}, "give one of them"),
    ],
    ids=str,
)
def test_requests_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageRequest(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ("x",)}, 'no class "x"; there are a, b, c'),
        ({"steps": 101}, "1 to 100 steps, not 101"),
        ({"churn": 5.0, "sampler": "heun"}, "the schedule cosine, which its network does not know"),
        ({"image": Path("nowhere.png")}, "cannot be read as a picture"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_the_model_are_refused(
    options: dict[str, Any], message: str, family: ImageFamily, network: nn.Module
) -> None:
    with pytest.raises(UserError, match=message):
        images(family, network, **options)


def test_a_model_without_classes_takes_no_label() -> None:
    family = ImageDiffusion(conditional=False).build(ASSETS)
    with pytest.raises(UserError, match="trained without classes"):
        images(family, family.network(MODEL), label=("a",))


@pytest.mark.parametrize("options", [{}, {"label": ("a",), "guidance": 3.0}, {"mix": True, "guidance": 0.0}], ids=str)
def test_a_null_label_that_was_never_trained_is_not_asked(options: dict[str, Any], network: nn.Module) -> None:
    family = ImageDiffusion(process=Process(times=100), label_drop=0.0).build(ASSETS)
    with pytest.raises(UserError, match="its null label was never trained"):
        images(family, network, **options)
    assert len(images(family, network, label=("a",))) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 7, "groups": 7, "heads": 7}, "width must be even"),
        ({"width": 1, "groups": 1, "heads": 1}, "width must be even"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UNet(**options)


def test_the_narrowest_network_can_be() -> None:
    UNet(width=2, groups=2, heads=2).build(size=8, channels=1, classes=1)(torch.zeros(1, 1, 8, 8), torch.zeros(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "eps", "zero_terminal_snr": True}, "predict v or x0"),
        ({"prediction": "eps", "schedule": "flow"}, "predict v or x0"),
        ({"schedule": "edm", "prediction": "v"}, "prediction edm"),
        ({"schedule": "flow", "prediction": "flow", "zero_terminal_snr": True}, "no rescaling"),
        ({"schedule": "flow", "prediction": "flow", "times": 10}, "continuous times"),
        ({"beta_start": 0.01}, "no such β"),
        ({"schedule": "linear", "beta_start": 0.5}, "rise between 0 and 1"),
        ({"data_std": 0.5}, "only the prediction edm"),
        ({"times": 1}, "at least 2"),
        ({"schedule": "linear", "times": 100}, "still holds 60% of the image"),
        ({"schedule": "linear", "beta_end": 0.001}, "still holds 7.% of the image"),
    ],
    ids=str,
)
def test_processes_that_cannot_be_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Process(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_snr": 5.0, "process": Process(zero_terminal_snr=True)}, "never be trained"),
        ({"min_snr": 5.0, "process": Process(prediction="edm")}, "its own weighting"),
        ({"min_snr": 0.0}, "must be positive"),
        ({"label_drop": 1.0}, "label_drop must lie"),
        ({"label_drop": 0.2, "conditional": False}, "no effect on an unconditional"),
        ({"class_weights": (1.0,)}, "go together"),
        ({"beta": 0.5}, "class_balance=effective-number"),
        ({"beta": 2.0, "class_balance": "effective-number"}, "objective.beta=2.0 must lie"),
        ({"class_weights": (1.0, float("inf")), "class_balance": "manual"}, "must be positive numbers"),
    ],
    ids=str,
)
def test_objectives_that_cannot_be_are_refused_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDiffusion(**options)


def test_sampling_without_signal_starts_at_the_last_time() -> None:
    process = Process(zero_terminal_snr=True, times=100)
    assert float(process.grid(7, None)[0].time) == 99
    with pytest.raises(UserError, match="trailing or linspace"):
        process.grid(7, "leading")


# ---- the error at each noise level ----------------------------------------------------------------------------

PROCESSES = [
    Process(),
    Process(schedule="linear", prediction="eps"),
    Process(times=5, zero_terminal_snr=True),
    Process(times=16, zero_terminal_snr=True),
    Process(schedule="flow", prediction="flow"),
    Process(schedule="edm", prediction="edm"),
]


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_validation_finds_the_error_at_each_noise_level(process: Process) -> None:
    """A network that errs by as much as the noise level says has that for its profile."""
    family = ImageDiffusion(process=process, label_drop=0.0).build(ASSETS)
    (profile,) = family.profiles.values()
    count = 16 * len(profile.points)
    draws_B = Draws(seed=1, scope="eval", positions_B=torch.arange(count), group=count)
    batch = {"pixels": torch.zeros(count, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(count).long()}
    task = family.task(batch, draws_B)

    class Errs(nn.Module):
        def forward(self, x: Tensor, told_B: Tensor, labels_B: Tensor) -> Tensor:
            return task.targets_BCSS + (told_B + 1).view(-1, 1, 1, 1)

    found = family.loss(Errs().eval(), task, {}).diagnostics
    assert list(found) == list(profile.points)
    assert all(float(weight) == 16 for _, weight in found.values()), "every range is as likely"
    errors = {name: float(pair[0] / pair[1]) for name, pair in found.items()}
    for name, error in errors.items():
        told = float(name.split("/")[1])
        assert error == pytest.approx((told + 1) ** 2, abs=0.15)
    places = sorted(profile.points, key=lambda name: -profile.points[name])
    assert places == sorted(places, key=lambda name: errors[name]), "more noise is a smaller log SNR"
    assert all(-20 <= place <= 20 for place in profile.points.values())


def test_the_axis_is_the_logarithm_of_the_snr() -> None:
    family = ImageDiffusion(process=Process(schedule="flow", prediction="flow")).build(ASSETS)
    (profile,) = family.profiles.values()
    assert profile.points["error_at_noise/0.031"] == pytest.approx(2 * np.log(31))
    assert profile.points["error_at_noise/0.969"] == pytest.approx(-2 * np.log(31))


# ---- from an image --------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path) -> Path:
    values = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) * 4
    Image.fromarray(values[0].numpy()).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def test_an_image_is_noised_to_the_level_where_sampling_starts(given: Path, family: ImageFamily) -> None:
    for noise in (0.2, 0.5, 1.0):
        request = ImageRequest(num=4, image=given, noise=noise, steps=10)
        grid = request.grid(family.process)
        x0 = request.pixels(ASSETS)
        x = family._start(grid, request, draws(4))
        added = (x - grid[0].a * x0) / grid[0].s
        assert torch.allclose(added.float(), draws(4).normal("start", 1, 8, 8), atol=1e-5)
        assert float(grid[0].time) / 100 <= noise
        assert noise - float(grid[0].time) / 100 < 0.11


def test_less_noise_than_the_last_step_removes_is_refused(given: Path, family: ImageFamily) -> None:
    with pytest.raises(UserError, match=r"noise 0.05 is less than the 0.09 from which the last of 10 steps starts"):
        ImageRequest(image=given, noise=0.05, steps=10).grid(family.process)
    assert len(ImageRequest(image=given, noise=0.05, steps=20).grid(family.process)) == 2


def test_less_noise_stays_closer_to_the_image(given: Path, family: ImageFamily, network: nn.Module) -> None:
    x0 = picture_of(ImageRequest(image=given).pixels(ASSETS))
    far = [
        float((images(family, network, image=given, noise=noise, steps=50).int() - x0.int()).abs().double().mean())
        for noise in (0.02, 0.2, 0.9)
    ]
    assert far == sorted(far)
    assert far[0] < 5


# ---- files ----------------------------------------------------------------------------------------------------


def test_files_hold_what_was_made(family: ImageFamily, network: nn.Module, tmp_path: Path) -> None:
    request = ImageRequest(num=11, steps=6, strip=4, gif=True, label=("a", "b"), batch=3)
    samples = family.sample(network, request, draws(11), {})
    files = samples.save(tmp_path)
    names = [file.name for file in files]
    assert names[:5] == ["grid.png", "grid.txt", "strip.png", "denoising.gif", "sample_0000_a.png"]
    assert len(files) == 4 + 11
    assert files[1].read_text() == "4 × a\n2 × a, 2 × b\n3 × b\n", "the classes in each row of the grid"
    for number, image in enumerate(samples.images_NCSS):
        stored = torch.from_numpy(np.array(Image.open(files[4 + number])))
        assert torch.equal(stored, image[0])
    strip = Image.open(tmp_path / "strip.png")
    assert strip.size == (4 * 9 + 1, 8 * 9 + 1), "four frames of the first eight images"
    assert Image.open(tmp_path / "denoising.gif").n_frames == 4
    assert samples.frames_FNCSS is not None
    assert torch.equal(samples.frames_FNCSS[-1], samples.images_NCSS[:8]), "the way ends at the image"


def test_a_grid_alone_is_as_wide_as_wanted(family: ImageFamily, network: nn.Module, tmp_path: Path) -> None:
    request = ImageRequest(num=5, steps=2, individual=False, columns=4)
    (grid,) = family.sample(network, request, draws(5), {}).save(tmp_path)
    assert Image.open(grid).size == (4 * 9 + 1, 2 * 9 + 1)


def test_a_trace_keeps_only_the_frames_asked_for() -> None:
    assert ImageRequest(strip=4).kept(6) == {0, 2, 4, 6}
    assert ImageRequest(gif=True).kept(50) == {round(i * 50 / 15) for i in range(16)}
    assert ImageRequest().kept(50) == set()


def test_pixels_are_scaled_by_a_fixed_rule() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1.0, 7.0])
    assert picture_of(x).tolist() == [0, 0, 64, 128, 255, 255]
    dim = torch.full((1, 1, 8, 8), -0.9)
    assert picture_of(dim).max() == 13, "a dim image stays dim"


def test_a_grid_has_every_image_in_its_place() -> None:
    sheet = tiled(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2), columns=3)
    assert sheet.shape == (1, 7, 10)
    assert sheet[0, 1::3, 1::3].tolist() == [[0, 1, 2], [3, 4, 64]]


# ---- augmentation ---------------------------------------------------------------------------------------------


def test_augmentation_belongs_to_the_example() -> None:
    x = torch.linspace(-1, 1, 6 * 3 * 64).view(6, 3, 8, 8)
    options = Augment(flip=True, rotate=20.0, jitter=0.3)
    whole = augmented(x, options, draws(6))
    rows = replace(draws(6), positions_B=torch.tensor([4, 1]))
    assert torch.equal(augmented(x[[4, 1]], options, rows), whole[[4, 1]])
    assert float(whole.abs().max()) <= 1


def test_each_augmentation_does_what_it_says() -> None:
    x = torch.zeros(400, 1, 8, 8)
    x[:, :, :, 0] = 1.0
    flipped = augmented(x, Augment(flip=True), draws(400))
    assert 0.4 < float((flipped[:, 0, 0, -1] == 1).double().mean()) < 0.6
    grey = augmented(torch.full((400, 1, 8, 8), 0.2), Augment(jitter=0.25), draws(400))[:, 0, 0, 0]
    light = (grey + 1) / 2 / 0.6
    assert 0.75 <= float(light.min()) < 0.77
    assert 1.23 < float(light.max()) <= 1.25
    disc = ((torch.arange(8) - 3.5).square()[:, None] + (torch.arange(8) - 3.5).square() < 9).float()
    turned = augmented(disc.expand(9, 1, 8, 8), Augment(rotate=180.0), draws(9))
    assert float((turned - disc).abs().mean()) < 0.1, "a disc stays a disc"


@pytest.mark.parametrize("options", [{"rotate": -1.0}, {"rotate": 181.0}, {"jitter": 1.0}], ids=str)
def test_augmentations_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"objective\.augment"):
        Augment(**options)  # type: ignore[arg-type]
